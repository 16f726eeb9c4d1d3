"""Poller: compares every binding with AWS at intervals, to find changes that the event path has missed.

It lists or describes secrets, and reads no value.
"""

from keyturn_receiver.poller.poller import Poller

__all__ = ["Poller"]
