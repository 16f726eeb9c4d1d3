"""Poller. Compares every binding with AWS at intervals, to find changes that the event path has missed.

The poller lists or describes secrets, and reads no values.
"""

from keyturn_receiver.poller.poller import Poller

__all__ = ["Poller"]
