"""A real Kubernetes node, with a kubelet and with containers instead of kwok's simulation. It needs root and Linux.

The node runs in an enclosure (enclosure.py). Everything that the node creates ends with the enclosure.
"""
