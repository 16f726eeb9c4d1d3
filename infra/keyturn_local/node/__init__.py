"""A real Kubernetes node: a kubelet and real containers replace kwok's simulation. It needs root and Linux.

The node runs in an enclosure (enclosure.py). Everything that the node creates ends with the enclosure.
"""
