"""A Kubernetes control plane on this machine, any cluster through kubectl, and the chart as objects."""
