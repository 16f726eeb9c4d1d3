"""A real node: kubelet and containers in place of kwok's word that a pod is Ready. Root and Linux only.

What runs here runs in an enclosure (enclosure.py), whose end is the end of all that the node made.
"""
