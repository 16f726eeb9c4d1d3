"""Kubernetes: a control plane on this machine, access to any cluster through kubectl, and the objects of the chart."""
