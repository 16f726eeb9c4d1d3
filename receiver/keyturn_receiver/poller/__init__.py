"""The poller: finds what the event path has missed, without reading a value, and knows when that path is broken."""

from keyturn_receiver.poller.poller import Poller

__all__ = ["Poller"]
