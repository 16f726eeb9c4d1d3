"""The status page. It shows people the bindings and rotations that this replica knows.

The page is served only on the pod's loopback. So only people with the right to forward a port of the pod can see it.
The page reads the caches, and makes no decisions. It shows no values. It shows the name of a key only if the binding,
or the text of a status, names the key.
"""
