"""The receiver: takes signed notifications and makes bindings true in the cluster.

The way of the data is the way of the imports: ``core`` decides (pure), ``sources`` reads AWS, ``cluster`` reads and
writes Kubernetes, ``reconcile`` joins the three, ``web`` and ``poller`` call it, ``app`` builds and runs it all.
Beside it ``heartbeat`` tries a receiver that runs.
"""

__version__ = "0.2.0"
