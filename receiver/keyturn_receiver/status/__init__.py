"""The status page: what this replica knows of bindings and rotations, for people.

It is served on the pod's loopback only: the right to forward a port of the pod is the right to see it. It reads the
caches and decides nothing. It shows no value, and no name of a key that the binding does not name itself.
"""
