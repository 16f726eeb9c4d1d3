"""Builders of the receiver's parts. Each module builds one layer or a part of it.

A builder takes the layers below as arguments, and returns its own layer as a frozen dataclass. ``app.py`` calls the
builders in order.
"""
