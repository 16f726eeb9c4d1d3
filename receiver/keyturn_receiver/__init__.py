"""The receiver. It accepts signed notifications, fills the bound Secrets, and restarts their consumers.

``core`` makes the decisions, and does no I/O. ``sources`` reads from AWS. ``cluster`` reads and writes Kubernetes
objects. ``reconcile`` combines these three packages. ``web`` and ``poller`` submit work to it. ``app`` builds the
receiver, and ``runtime`` runs it. ``self_test`` is a separate program that tests a running receiver.
"""

__version__ = "0.2.0"
