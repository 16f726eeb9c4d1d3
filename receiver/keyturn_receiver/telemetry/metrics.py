"""All metrics of the receiver. Names follow https://prometheus.io/docs/practices/naming/."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# Buckets in seconds. _SHORT is for the steps of a reconcile, and _LONG is for durations up to the poller's interval.
_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LONG = (0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 8, 15, 30, 60, 120, 300, 900, 3600)
_LIVE = (1, 2, 3, 5, 8, 12, 20, 30, 45, 60, 90, 120, 180, 300, 600, 1200, 1800)  # for the duration of rollouts


class Metrics:
    """All metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        # The webhook.
        self.deliveries = self._counter("deliveries", "Deliveries, by status code of the reply.", "code")
        self.replays = self._counter(
            "replays", "Verified deliveries that had arrived before, byte for byte; they are answered without work."
        )
        self.notifications = self._counter("notifications", "Verified notifications, by outcome.", "outcome")
        self.connections_closed = self._counter(
            "connections_closed", "Connections that the server closed early, by reason.", "reason"
        )
        self.connections_cut = self._counter(
            "connections_cut", "Deprecated: use keyturn_connections_closed_total.", "reason"
        )
        self.signing_keys = self._gauge("signing_keys", "Signing keys that deliveries are accepted with now.")

        # The steps of one propagation, in order.
        self.notification_age_seconds = self._histogram(
            "notification_age_seconds",
            "From the event in AWS, whose time is in whole seconds, to its arrival here.",
            _LONG,
        )
        self.queue_seconds = self._histogram("queue_seconds", "From a request to the start of its reconcile.", _LONG)
        self.fetch_seconds = self._histogram(
            "fetch_seconds",
            "Reading the values of one binding from AWS, with retries while AWS returns an old version.",
            _SHORT,
        )
        self.apply_seconds = self._histogram("apply_seconds", "Writing one Secret.", _SHORT)
        self.rollout_seconds = self._histogram(
            "rollout_seconds", "Patching the consumers of one Secret, so that they restart.", _SHORT
        )
        self.reconcile_seconds = self._histogram("reconcile_seconds", "Duration of one reconcile.", _SHORT)
        self.propagation_seconds = self._histogram(
            "propagation_seconds",
            "From the event in AWS until its Secrets are written and their consumers patched.",
            _LONG,
        )

        # The work queue.
        self.reconciles = self._counter(
            "reconciles", "Reconciles of one binding, by cause and outcome.", "cause", "outcome"
        )
        self.rollouts = self._counter("rollouts", "Consumers restarted, by kind of workload.", "kind")
        self.live_seconds = Histogram(
            "keyturn_live_seconds",
            "From the move of the label in AWS until the last pod of a restarted workload is ready with the new value,"
            " by kind of workload. Both ends are in whole seconds, by AWS's clock and by that of Kubernetes.",
            ("kind",),
            buckets=_LIVE,
            registry=self.registry,
        )
        self.rollouts_stuck = self._gauge(
            "rollouts_stuck",
            "Rollouts that Keyturn asked for and that go no further; 0 on replicas without the poller's Lease.",
        )
        self.rollout_fights = self._counter(
            "rollout_fights",
            "Consumers whose restarts slow down because another writer keeps reverting Keyturn's annotation, by kind of"
            " workload.",
            "kind",
        )
        self.rollouts_waiting = self._gauge(
            "rollouts_waiting",
            "Consumers whose restart waits, as this replica sees them, by what they wait for: `window`, `order`,"
            " `pace`, `halt`, `debounce` or `backoff`.",
            "reason",
        )
        self.rollouts_halted = self._gauge(
            "rollouts_halted",
            "Secrets with a consumer whose failed rollout keeps the others from being restarted, as this replica sees"
            " them.",
        )
        self.watch_brakes = self._counter(
            "watch_brakes", "Watched Secrets whose restarts slow down because their values change again and again."
        )
        self.watched_secrets = self._gauge(
            "watched_secrets", "Secrets in this replica's cache that others fill and that are watched for changes."
        )
        self.bindings = self._gauge("bindings", "Bound Secrets in this replica's cache.")
        self.failing_bindings = self._gauge(
            "failing_bindings",
            "Bindings and watched Secrets whose last reconcile on this replica failed and that no replica has"
            " reconciled since.",
        )
        self.staleness_seconds = self._gauge(
            "staleness_seconds",
            "Age of the oldest reconcile request that is queued, running or retried; 0 if there is none.",
        )
        self.queue_depth = self._gauge("queue_depth", "Bindings waiting in the work queue, by priority.", "priority")
        self.events = self._counter("events", "Kubernetes Events, by outcome.", "outcome")

        # The poller and the event path.
        self.event_path_up = self._gauge("event_path_up", "1 while heartbeats arrive at any replica.")
        self.poller_leader = self._gauge("poller_leader", "1 on the replica that holds the poller's Lease.")
        self.sweeps = self._counter(
            "sweeps",
            "Sweeps of the poller, by kind, store and outcome. The store is `own`, with the receiver's own role and"
            " region, or `other`, which a binding names.",
            "kind",
            "store",
            "outcome",
        )
        self.sweep_age_seconds = self._gauge(
            "sweep_age_seconds",
            "Seconds since this replica last swept the receiver's own store without a failure, or any store if no"
            " binding is of the own one; `+Inf` before that. The minimum of all replicas is the cluster's value.",
        )
        self.sweep_seconds = self._histogram("sweep_seconds", "Duration of one sweep.", _LONG)
        self.recovered_by_poll = self._counter(
            "recovered_by_poll", "Changes that the poller found and the event path had not delivered."
        )

        # Calls to AWS and Kubernetes.
        self.aws_requests = self._counter("aws_requests", "Calls to AWS, by action and outcome.", "action", "outcome")
        self.kubernetes_requests = self._counter(
            "kubernetes_requests",
            "Calls to the Kubernetes API, by verb, resource and status code (0: no response).",
            "verb",
            "resource",
            "code",
        )
        self.kubernetes_request_limit = self._gauge(
            "kubernetes_request_limit",
            "Concurrent calls to the Kubernetes API that the adaptive limiter allows now.",
        )

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"keyturn_{name}", help_text, labels, registry=self.registry)

    def _gauge(self, name: str, help_text: str, *labels: str) -> Gauge:
        return Gauge(f"keyturn_{name}", help_text, labels, registry=self.registry)

    def _histogram(self, name: str, help_text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"keyturn_{name}", help_text, buckets=buckets, registry=self.registry)
