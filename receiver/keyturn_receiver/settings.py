"""The receiver's settings. They are read from environment variables once, at the start."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from keyturn_contract.signature import parse_public_key
from keyturn_receiver.core.binding import REGION
from keyturn_receiver.core.policy import Default

_FOR_DELIVERIES = (
    "signing_key_secret_id",
    "signing_key_file",
    "signing_public_keys",
    "tls_certificate_file",
    "tls_key_file",
)


class PollMode(StrEnum):
    """The way in which the poller asks AWS for versions.

    LIST gets all secrets of an account in one region, 100 per call. DESCRIBE makes one call for each bound secret.
    """

    LIST = "list"
    DESCRIBE = "describe"


# Default seconds between two sweeps. AWS bills each call, and most changes arrive as events (docs/cost.md).
POLL_INTERVALS = {PollMode.LIST: 300.0, PollMode.DESCRIBE: 1800.0}


class Settings(BaseSettings):
    """Each field is set by the variable KEYTURN_<NAME>. AWS's own variables set the AWS region, endpoints and
    credentials."""

    model_config = SettingsConfigDict(
        env_prefix="KEYTURN_", frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True
    )

    deliveries: bool = True
    """Whether notifications are taken. If not, the receiver needs no signing key and opens no port for notifications;
    the poller alone carries changes."""

    signing_key_secret_id: str = ""
    """Name or ARN of the AWS secret that holds the signing key (`whsec_...`). Its current, previous and pending
    versions are all accepted. Required unless a key file or a public key is set, or `KEYTURN_DELIVERIES` is false."""

    signing_key_file: Path | None = None
    """File with signing keys (`whsec_...`), one per line, such as a mounted Kubernetes Secret. A change of the file
    takes effect without a restart. All its keys are accepted, in addition to those of the AWS secret if that is set."""

    signing_public_keys: Annotated[tuple[bytes, ...], NoDecode] = ()
    """Public keys of the stack's KMS key, separated by commas: `whpk_...`, or the output of `aws kms get-public-key
    --query PublicKey --output text`. With public keys alone the receiver holds no key that could sign."""

    host: str = ""
    """Address to listen on. If empty: all addresses of the pod, IPv4 and IPv6."""

    port: int = Field(8080, ge=0, le=65535)
    """Port for notifications (`POST /v1/notifications`)."""

    operations_port: int = Field(9090, ge=0, le=65535)
    """Port for `/livez`, `/readyz` and `/metrics`. Do not expose it outside the cluster."""

    status_page: bool = True
    """Whether the status page is served, on the pod's loopback only: `kubectl port-forward` reaches it, and nothing
    else does."""

    status_page_port: int = Field(9091, ge=1, le=65535)
    """Port of the status page on 127.0.0.1. If another process has the port, the receiver runs without the page and
    tries again."""

    status_page_cluster: str = Field("", max_length=63)
    """Name of the cluster that the status page shows, for people who look at several clusters."""

    tls_certificate_file: Path | None = None
    """Certificate (PEM, with its chain) for TLS on the notification port. A change of the file takes effect without a
    restart."""

    tls_key_file: Path | None = None
    """Private key of that certificate."""

    deadline_seconds: float = Field(8.0, gt=0, le=60)
    """Time to apply a delivery. After that, the reply is 503 and SQS delivers again. During shutdown the time is at
    most 7 s."""

    drain_seconds: float = Field(5.0, ge=0, le=15)
    """Time after SIGTERM during which the receiver still accepts new deliveries, until the cluster routes them
    elsewhere. The rest of the shutdown takes up to 12 s."""

    max_deliveries: int = Field(64, ge=1)
    """Deliveries handled at once. Further deliveries get the reply 503."""

    max_connections: int = Field(1000, ge=1)
    """Connections held open at once, per port. Beyond that, the server closes the connection that has waited longest
    for its client."""

    namespaces: Annotated[tuple[str, ...], NoDecode] = ()
    """Namespaces to serve, separated by commas. If empty: all namespaces."""

    regions: Annotated[tuple[str, ...], NoDecode] = ()
    """AWS regions that ARNs in bindings may name, separated by commas, besides the receiver's own. If empty: all
    regions of its partition that the AWS SDK knows. Bindings that name another region or partition are refused without
    a call to AWS."""

    policy_default: Default = Default.DENY
    """Policy for namespaces without the annotation `keyturn.dev/allow-secrets`: `deny` or `allow`."""

    tenant_roles: bool = False
    """Whether a binding may name a ServiceAccount of its namespace, whose AWS role then reads the secret."""

    rollouts: bool = True
    """Whether consumers are restarted. If not, the receiver only fills Secrets: it watches and changes no workload."""

    rollout_default: Literal["enabled", "disabled"] = "enabled"
    """Whether consumers are restarted where no annotation `keyturn.dev/rollout` says so: `enabled` or `disabled`, which
    restarts only what an annotation enables."""

    max_unfinished_per_secret: int = Field(10, ge=1)
    """Consumers of one Secret that may be in the middle of a restart at a time. The next ones wait until the pods of an
    earlier one are ready."""

    max_unfinished_per_namespace: int | None = Field(None, ge=1)
    """The same for all consumers in a namespace. Without it, there is no such limit."""

    max_unfinished_per_cluster: int | None = Field(None, ge=1)
    """The same for all consumers in the cluster. Without it, there is no such limit."""

    reloader: Literal["absent", "replaced", "running"] = "absent"
    """Whether Stakater's Reloader is in the cluster. `absent`: its annotations mean nothing. `replaced`: it was
    removed, and Keyturn restarts what its annotations select. `running`: what they select is left to it, so that
    nothing is restarted twice."""

    watch_secrets: bool = True
    """Whether the readers of Secrets with the label `keyturn.dev/watch`, which others fill, are restarted when a value
    changes. It costs one more watch."""

    report_readers: bool = True
    """Whether Events name the readers of a changed Secret that nobody restarts: bare pods, ReplicaSets, Jobs and
    CronJobs. For it, the pods and CronJobs of the Secret's namespace are listed after a change, at most every ten
    seconds."""

    argo_rollouts: bool = False
    """Whether Rollouts of Argo are consumers, too. Their definition (CRD) may be absent: the receiver looks for it
    every `KEYTURN_WATCH_SECONDS`."""

    deletions: bool = False
    """Whether a Secret with the annotation `keyturn.dev/on-delete: delete` is deleted once AWS has deleted its secret.
    If not, the Secret stays and its status reports the deletion."""

    poll_interval_seconds: float = Field(0.0, ge=0)
    """Time between two sweeps of the poller, plus or minus 10 %. At most 30 s while the event path is down. If 0, it is
    300 s with the poll mode `list`, and 1800 s with `describe`, because AWS bills each call. Without deliveries it is
    300 s with both."""

    poll_mode: PollMode = PollMode.LIST
    """How the poller asks AWS for versions: `list` all secrets, or `describe` each bound one. Without permission to
    list, it describes."""

    heartbeat_silence_seconds: float = Field(180.0, ge=0)
    """Time without a heartbeat after which the event path counts as down. Set 0 if the stack sends no heartbeats."""

    signing_key_interval_seconds: float = Field(60.0, ge=1)
    """Time between two checks for a new signing key."""

    concurrency: int = Field(128, ge=4)
    """Bindings reconciled at once. Background work takes at most half of them, one AWS secret at most a quarter."""

    kubernetes_requests: int = Field(32, ge=1)
    """Upper limit of concurrent calls to the Kubernetes API. The receiver lowers it while the API server is
    overloaded."""

    aws_threads: int = Field(32, ge=1)
    """Concurrent calls to AWS."""

    watch_seconds: float = Field(60.0, ge=1)
    """Maximum duration of one watch. If a watch lasts a quarter longer, its connection counts as dead."""

    resync_seconds: float = Field(3600.0, ge=1)
    """Time after which every watched resource is listed again."""

    stuck_seconds: float = Field(300.0, ge=10)
    """Time without progress after which a part of the receiver fails the liveness probe. Waiting for AWS or Kubernetes
    can take a healthy receiver up to 30 s."""

    lease_namespace: str = "keyturn"
    """Namespace of the receiver's own objects: a Lease for the leader election of the poller, one to share the time of
    the last heartbeat, and a Secret with the key of the hashes that are written on bound Secrets."""

    lease_name: str = "keyturn"
    """Prefix of the names of these objects."""

    traces: bool = False
    """Whether to send traces. OpenTelemetry's own variables, such as `OTEL_EXPORTER_OTLP_ENDPOINT`, say where."""

    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")
    """Minimum level of log lines: `DEBUG`, `INFO`, `WARNING` or `ERROR`. Logs are JSON lines on standard output."""

    @property
    def poll_interval(self) -> float:
        """Seconds between two sweeps: as set, or the default of the poll mode. Without deliveries, the default is that
        of LIST."""
        mode = self.poll_mode if self.deliveries else PollMode.LIST
        return self.poll_interval_seconds or POLL_INTERVALS[mode]

    @field_validator("signing_public_keys", mode="before")
    @classmethod
    def _parse_public_keys(cls, text: object) -> object:
        return tuple(map(parse_public_key, filter(None, text.split(",")))) if isinstance(text, str) else text

    @field_validator("signing_key_file", "tls_certificate_file", "tls_key_file", mode="before")
    @classmethod
    def _parse_file(cls, text: object) -> object:
        return None if text == "" else text

    @field_validator("namespaces", "regions", mode="before")
    @classmethod
    def _parse_names(cls, text: object) -> object:
        return tuple(filter(None, map(str.strip, text.split(",")))) if isinstance(text, str) else text

    @field_validator("max_unfinished_per_namespace", "max_unfinished_per_cluster", mode="before")
    @classmethod
    def _parse_limit(cls, text: object) -> object:
        return None if text == "" else text

    @field_validator("regions")
    @classmethod
    def _check_regions(cls, regions: tuple[str, ...]) -> tuple[str, ...]:
        for each in regions:
            if not REGION.fullmatch(each):
                raise ValueError(f"{each!r:.80} is not the name of an AWS region, such as eu-west-1")
        return regions

    @field_validator("poll_interval_seconds")
    @classmethod
    def _check_poll_interval(cls, seconds: float) -> float:
        if 0 < seconds < 1:
            raise ValueError("set at least 1 s, or 0 for the default of the poll mode")
        return seconds

    @model_validator(mode="after")
    def _check_tls_files(self) -> Self:
        if (self.tls_certificate_file is None) != (self.tls_key_file is None):
            raise ValueError("set both KEYTURN_TLS_CERTIFICATE_FILE and KEYTURN_TLS_KEY_FILE, or neither")
        return self

    @model_validator(mode="after")
    def _check_signing_key(self) -> Self:
        if self.deliveries and not (self.signing_key_secret_id or self.signing_key_file or self.signing_public_keys):
            raise ValueError(
                "set KEYTURN_SIGNING_KEY_SECRET_ID, KEYTURN_SIGNING_KEY_FILE or KEYTURN_SIGNING_PUBLIC_KEYS;"
                " or set KEYTURN_DELIVERIES to false, so that the poller alone carries changes"
            )
        return self

    @model_validator(mode="after")
    def _check_unused(self) -> Self:
        for name in _FOR_DELIVERIES:
            if getattr(self, name) and not self.deliveries:
                raise ValueError(
                    f"KEYTURN_{name.upper()} has no use while KEYTURN_DELIVERIES is false: remove it, or set"
                    " KEYTURN_DELIVERIES to true"
                )
        return self


def read_settings() -> Settings:
    """Read the settings from the environment. If a setting is invalid, print its name and exit with status 2."""
    try:
        return Settings()  # type: ignore[call-arg]  # the values come from the environment
    except ValidationError as error:
        for invalid in error.errors(include_input=False, include_url=False):
            name = "KEYTURN_" + str(invalid["loc"][0]).upper() if invalid["loc"] else "settings"
            print(f"{name}: {invalid['msg']}. See docs/settings.md.", file=sys.stderr)
        sys.exit(2)
