"""What the doctor knows of a cluster."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from keyturn_cli.doctor.finding import Unknown
from keyturn_receiver.core.policy import Default

DEFAULT_SILENCE = 180.0  # seconds, the default of KEYTURN_HEARTBEAT_SILENCE_SECONDS


@dataclass(frozen=True, slots=True)
class ReceiverPod:
    """A pod of a receiver. ``version`` is the release that its labels name. ``waits_for`` is the reply of /readyz if
    the pod is not ready, or empty."""

    name: str
    ready: bool
    version: str
    waits_for: str = ""


@dataclass(frozen=True, slots=True)
class Installation:
    """The pods of a Helm release. ``replicas`` is how many of them there should be."""

    replicas: int
    pods: tuple[ReceiverPod, ...]


@dataclass(frozen=True, slots=True)
class Configuration:
    """The settings of the receivers: the variables of the container whose values are in the Deployment.

    Those that come from a Secret or ConfigMap are not read.
    """

    settings: Mapping[str, str] = field(default_factory=dict)
    service_account: str = "keyturn"

    @property
    def takes_deliveries(self) -> bool:
        """Whether the receivers take notifications (KEYTURN_DELIVERIES)."""
        return self.is_on("KEYTURN_DELIVERIES", True)

    @property
    def silence(self) -> float:
        """Seconds without a heartbeat after which the event path counts as down. 0 if none are expected."""
        try:
            return float(self.settings.get("KEYTURN_HEARTBEAT_SILENCE_SECONDS", DEFAULT_SILENCE))
        except ValueError:
            return DEFAULT_SILENCE

    @property
    def namespaces(self) -> tuple[str, ...]:
        """The namespaces that are served. Empty if all are."""
        texts = self.settings.get("KEYTURN_NAMESPACES", "").split(",")
        return tuple(filter(None, (text.strip() for text in texts)))

    @property
    def policy(self) -> Default:
        """What a namespace without the annotation `keyturn.dev/allow-secrets` may read."""
        return Default.ALLOW if self.settings.get("KEYTURN_POLICY_DEFAULT") == Default.ALLOW else Default.DENY

    def is_on(self, setting: str, default: bool) -> bool:
        """Return whether a setting that is true or false is true."""
        text = self.settings.get(setting, "").lower()
        return text in ("true", "1", "yes", "on") if text else default


@dataclass(frozen=True, slots=True)
class LeaseState:
    """The state of a Lease. ``renewed`` is None if no receiver has written it yet. ``sent`` is when the newest
    heartbeat was sent; only the Lease of the event path has it."""

    name: str
    holder: str = ""
    renewed: datetime | None = None
    sent: datetime | None = None


@dataclass(frozen=True, slots=True)
class BoundSecret:
    """A Secret with the label `keyturn.dev/bind`. ``owners`` has the field managers, other than Keyturn's, of each key
    that Keyturn writes."""

    namespace: str
    name: str
    label: str
    status: str
    owners: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Bindings:
    """All bound Secrets that the caller may list. ``allowed`` has the annotation `keyturn.dev/allow-secrets` of the
    namespaces that hold them, or None for a namespace without the annotation."""

    secrets: tuple[BoundSecret, ...]
    allowed: Mapping[str, str | None] | Unknown


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """What the doctor knows of a cluster. ``now`` is the API server's time."""

    now: datetime
    kubernetes: tuple[int, int] | Unknown
    installation: Installation | Unknown
    configuration: Configuration | Unknown
    poller: LeaseState | Unknown
    event_path: LeaseState | Unknown
    bindings: Bindings | Unknown
    missing_rights: tuple[str, ...] | Unknown
