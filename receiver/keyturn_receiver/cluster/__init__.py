"""Kubernetes: caches of the cluster's objects, and clients for single objects.

Only this package knows the Kubernetes API, its client and its errors. Secrets are watched by label, and only their
metadata, so the values of Secrets that are not bound never reach the receiver.
"""
