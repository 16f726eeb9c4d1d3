"""A real Kubernetes node: a kubelet and real containers instead of kwok's simulation. It needs root and Linux.

The node runs in an enclosure (enclosure.py). The end of the enclosure removes everything that the node has created.
"""
