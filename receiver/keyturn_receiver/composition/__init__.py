"""Builders of the receiver's parts. Most modules build one layer, or a part of a layer. ``gauges`` and ``handlers``
connect parts that are already built.

A builder takes the layers below as arguments, and usually returns what it has built as a frozen dataclass. ``app.py``
calls the builders of the layers in order.
"""
