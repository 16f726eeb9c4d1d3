"""A real node: kubelet and containers in place of kwok's simulation. Root and Linux only.

It runs in an enclosure (enclosure.py); everything that the node creates ends with the enclosure.
"""
