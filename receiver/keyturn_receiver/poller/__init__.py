"""Poller. Compares the bindings with AWS at regular intervals, to find changes that the event path has missed.

The poller lists or describes secrets. It never reads a value.
"""

from keyturn_receiver.poller.poller import Poller

__all__ = ["Poller"]
