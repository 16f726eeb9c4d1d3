"""The receiver: accepts signed notifications, fills the bound Secrets, and restarts their consumers.

Imports follow the data: ``core`` decides (pure), ``sources`` reads AWS, ``cluster`` reads and writes Kubernetes,
``reconcile`` joins the three, ``web`` and ``poller`` call it, ``app`` builds and runs everything. ``self_test`` is a
program of its own that tests a running receiver.
"""

__version__ = "0.2.0"
