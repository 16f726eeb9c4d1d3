"""HTTP: the door that deliveries come through, and the operations port. Knows neither AWS nor Kubernetes."""
