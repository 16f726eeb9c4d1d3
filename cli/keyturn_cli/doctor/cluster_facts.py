"""Facts about a cluster, as plain data for the checks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from keyturn_cli.doctor.finding import Unknown
from keyturn_receiver.core.policy import Default

DEFAULT_SILENCE = 180.0  # seconds, the default of KEYTURN_HEARTBEAT_SILENCE_SECONDS


@dataclass(frozen=True, slots=True)
class ReceiverPod:
    """A pod of a receiver. ``version`` is the version in the pod's labels. ``waits_for`` is the reason why the pod is
    not ready, such as the reply of /readyz. It is empty if the pod is ready."""

    name: str
    ready: bool
    version: str
    waits_for: str = ""


@dataclass(frozen=True, slots=True)
class Installation:
    """The pods of a Helm release. ``replicas`` is the number of pods that the Deployment asks for."""

    replicas: int
    pods: tuple[ReceiverPod, ...]


@dataclass(frozen=True, slots=True)
class Configuration:
    """The settings of the receivers. They are the environment variables of the Deployment, or of this process if it
    runs in a receiver's pod and cannot read the Deployment.

    A variable of the Deployment whose value is in a Secret or a ConfigMap is not read.
    """

    settings: Mapping[str, str] = field(default_factory=dict)
    service_account: str = "keyturn"

    @property
    def takes_deliveries(self) -> bool:
        """Whether the receivers take notifications (KEYTURN_DELIVERIES)."""
        return self.is_on("KEYTURN_DELIVERIES", True)

    @property
    def silence(self) -> float:
        """The number of seconds without a heartbeat after which the event path counts as down. It is 0 if no heartbeats
        are expected."""
        try:
            return float(self.settings.get("KEYTURN_HEARTBEAT_SILENCE_SECONDS", DEFAULT_SILENCE))
        except ValueError:
            return DEFAULT_SILENCE

    @property
    def namespaces(self) -> tuple[str, ...]:
        """The served namespaces. It is empty if the receivers serve all namespaces."""
        texts = self.settings.get("KEYTURN_NAMESPACES", "").split(",")
        return tuple(filter(None, (text.strip() for text in texts)))

    @property
    def policy(self) -> Default:
        """The policy for a namespace without the annotation `keyturn.dev/allow-secrets`."""
        return Default.ALLOW if self.settings.get("KEYTURN_POLICY_DEFAULT") == Default.ALLOW else Default.DENY

    def is_on(self, setting: str, default: bool) -> bool:
        """Return the value of a boolean setting."""
        text = self.settings.get(setting, "").lower()
        return text in ("true", "1", "yes", "on") if text else default


@dataclass(frozen=True, slots=True)
class LeaseState:
    """The state of a Lease. ``renewed`` is None if no receiver has written the Lease yet. ``sent`` is the Lease's
    acquireTime. In the Lease of the event path, this is the time at which the newest heartbeat was sent."""

    name: str
    holder: str = ""
    renewed: datetime | None = None
    sent: datetime | None = None


@dataclass(frozen=True, slots=True)
class BoundSecret:
    """A Secret with the label `keyturn.dev/bind`. ``owners`` maps a key that Keyturn writes to the other field managers
    that own this key."""

    namespace: str
    name: str
    label: str
    status: str
    owners: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Bindings:
    """The Secrets with the label `keyturn.dev/bind` in the namespaces that the release serves. ``allowed`` maps each of
    their namespaces to its annotation `keyturn.dev/allow-secrets`, or to None if the namespace does not have this
    annotation."""

    secrets: tuple[BoundSecret, ...]
    allowed: Mapping[str, str | None] | Unknown


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """All facts about a cluster. ``now`` is the time by the API server's clock."""

    now: datetime
    kubernetes: tuple[int, int] | Unknown
    installation: Installation | Unknown
    configuration: Configuration | Unknown
    poller: LeaseState | Unknown
    event_path: LeaseState | Unknown
    bindings: Bindings | Unknown
    missing_rights: tuple[str, ...] | Unknown
