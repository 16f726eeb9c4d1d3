"""The status page, which shows people the bindings and rotations that this replica knows.

The page is served only on the pod's loopback, so the right to forward a port of the pod is the right to see the page.
It reads the caches and makes no decisions. It shows no values, and only the names of keys that the binding names.
"""
