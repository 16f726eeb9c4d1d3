"""Kubernetes: caches of the cluster's objects, and clients for single objects.

Only this package knows the Kubernetes API, its client and its errors. The watches on Secrets select them by Keyturn's
labels, so they never show the receiver the values of other Secrets.
"""
