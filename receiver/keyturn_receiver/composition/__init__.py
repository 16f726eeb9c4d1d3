"""Builders of the receiver's parts, one layer in a module.

Each builder takes the layers below as arguments and returns its own layer as a frozen dataclass. ``app.py`` calls the
builders in order.
"""
