"""The doctor: pure checks over facts, and the readers that collect the facts from Kubernetes, AWS and a receiver's
URL."""
