"""Kubernetes: what stands in the cluster, and the few writes. The only place that knows its API, client and errors.

Secrets are watched by label and as metadata alone: the values of Secrets that are not bound never come here.
"""
