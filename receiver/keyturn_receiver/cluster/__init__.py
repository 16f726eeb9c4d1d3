"""Kubernetes: caches of what the cluster holds, and clients for single objects.

No other package knows the Kubernetes API, its client and its errors. Secrets are watched by label and as metadata
alone: the values of Secrets that are not bound never reach the receiver.
"""
