"""Every metric. Names follow https://prometheus.io/docs/practices/naming/."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# Seconds: from a fraction of one request to the API server up to a poller's interval.
_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LONG = (0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 8, 15, 30, 60, 120, 300, 900, 3600)


class Metrics:
    """All of them, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        # The door.
        self.deliveries = self._counter("deliveries", "Deliveries by status code of the reply.", "code")
        self.notifications = self._counter("notifications", "Verified notifications by outcome.", "outcome")
        self.connections_cut = self._counter(
            "connections_cut", "Connections that were ended for want of a whole request, or of room.", "reason"
        )
        self.signing_keys = self._gauge("signing_keys", "Signing keys that deliveries are accepted with now.")

        # The legs of one propagation, in their order.
        self.notification_age_seconds = self._histogram(
            "notification_age_seconds", "From the event in AWS, which tells whole seconds, until it is here.", _LONG
        )
        self.queue_seconds = self._histogram("queue_seconds", "From a request to the start of its reconcile.", _LONG)
        self.fetch_seconds = self._histogram(
            "fetch_seconds",
            "Reading one binding's values from AWS, repeated while AWS still gives the old one.",
            _SHORT,
        )
        self.apply_seconds = self._histogram("apply_seconds", "Writing one Secret.", _SHORT)
        self.rollout_seconds = self._histogram("rollout_seconds", "Marking the consumers of one Secret.", _SHORT)
        self.reconcile_seconds = self._histogram(
            "reconcile_seconds", "From the start of a reconcile to its end.", _SHORT
        )
        self.propagation_seconds = self._histogram(
            "propagation_seconds",
            "From the event in AWS until its Secrets are written and their consumers marked.",
            _LONG,
        )

        # The engine.
        self.reconciles = self._counter(
            "reconciles", "Reconciles of one binding, by what asked for them and how they ended.", "cause", "outcome"
        )
        self.rollouts = self._counter("rollouts", "Consumers restarted, by kind of workload.", "kind")
        self.bindings = self._gauge("bindings", "Bound Secrets known to this replica.")
        self.failing_bindings = self._gauge(
            "failing_bindings",
            "Bindings whose last reconcile here has failed, and that no replica has put right since.",
        )
        self.staleness_seconds = self._gauge(
            "staleness_seconds", "Age of the oldest request for a reconcile that has not been met yet; 0: all are."
        )
        self.queue_depth = self._gauge(
            "queue_depth", "Bindings that wait for their turn, by what asked first.", "priority"
        )
        self.events = self._counter("events", "Kubernetes Events by what became of them.", "outcome")

        # The poller and the event path.
        self.event_path_up = self._gauge("event_path_up", "1 while heartbeats arrive, at whichever replica.")
        self.poller_leader = self._gauge("poller_leader", "1 on the replica that holds the poller's Lease.")
        self.sweeps = self._counter("sweeps", "Sweeps of the poller by kind and outcome.", "kind", "outcome")
        self.sweep_seconds = self._histogram("sweep_seconds", "Time that one sweep takes.", _LONG)
        self.recovered_by_poll = self._counter(
            "recovered_by_poll", "Changes that the poller found and the event path had not brought."
        )

        # What it asks of others.
        self.aws_requests = self._counter("aws_requests", "Calls to AWS by action and outcome.", "action", "outcome")
        self.kubernetes_requests = self._counter(
            "kubernetes_requests",
            "Calls to the Kubernetes API by verb, resource and status code (0: no answer).",
            "verb",
            "resource",
            "code",
        )
        self.kubernetes_request_limit = self._gauge(
            "kubernetes_request_limit",
            "Calls to the Kubernetes API that may be under way at once, as it bears them now.",
        )

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"keyturn_{name}", about, labels, registry=self.registry)

    def _gauge(self, name: str, about: str, *labels: str) -> Gauge:
        return Gauge(f"keyturn_{name}", about, labels, registry=self.registry)

    def _histogram(self, name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"keyturn_{name}", about, buckets=buckets, registry=self.registry)
