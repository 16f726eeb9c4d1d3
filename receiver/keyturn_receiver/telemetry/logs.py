"""What the receiver tells of itself: metrics for Prometheus, and logs as JSON lines. Never a secret value."""

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """Every metric, in a registry of its own; names follow https://prometheus.io/docs/practices/naming/."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.deliveries = Counter(
            "keyturn_deliveries", "Deliveries by status code of the reply.", ["code"], registry=self.registry
        )
        self.notifications = Counter(
            "keyturn_notifications", "Verified notifications by outcome.", ["outcome"], registry=self.registry
        )
        self.reconciles = Counter(
            "keyturn_reconciles",
            "Reconciles of one binding, by what asked for them and how they ended.",
            ["cause", "outcome"],
            registry=self.registry,
        )
        self.reconcile_seconds = Histogram(
            "keyturn_reconcile_seconds", "Time from the start of a reconcile to its end.", registry=self.registry
        )
        self.rollouts = Counter(
            "keyturn_rollouts", "Consumers restarted, by kind of workload.", ["kind"], registry=self.registry
        )
        self.recovered_by_poll = Counter(
            "keyturn_recovered_by_poll",
            "Changes that the poller found and the event path had not brought.",
            registry=self.registry,
        )
        self.sweeps = Counter("keyturn_sweeps", "Sweeps of the poller by outcome.", ["outcome"], registry=self.registry)
        self.bindings = Gauge("keyturn_bindings", "Bound Secrets known to this replica.", registry=self.registry)
        self.poller_leader = Gauge(
            "keyturn_poller_leader", "1 on the replica that holds the poller's Lease.", registry=self.registry
        )
        self.aws_requests = Counter(
            "keyturn_aws_requests", "Calls to AWS by action and outcome.", ["action", "outcome"], registry=self.registry
        )
        self.kubernetes_requests = Counter(
            "keyturn_kubernetes_requests",
            "Calls to the Kubernetes API by verb, resource and status code (0: no answer).",
            ["verb", "resource", "code"],
            registry=self.registry,
        )


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the fields given as ``extra={"fields": {...}}``."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields = getattr(record, "fields", None)
        if isinstance(fields, Mapping):
            line.update(fields)
        if record.exc_info and record.exc_info[0]:
            line["error"] = record.exc_info[0].__name__
            line["traceback"] = _frames(record)
        return json.dumps(line, default=str)


def _frames(record: logging.LogRecord) -> list[str]:
    # The frames alone: an exception's own text may quote what it stumbled over, a secret value for one.
    frames: list[str] = []
    traceback = record.exc_info[2] if record.exc_info else None
    while traceback:
        code = traceback.tb_frame.f_code
        frames.append(f"{code.co_filename}:{traceback.tb_lineno} {code.co_name}")
        traceback = traceback.tb_next
    return frames


def configure_logging(level: str) -> None:
    """Send all logs to standard output as JSON lines; libraries speak from WARNING on."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("keyturn_receiver").setLevel(level)
