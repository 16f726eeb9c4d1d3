"""Kubernetes: a control plane on this machine, access to clusters through kubectl, and the objects of the chart."""
