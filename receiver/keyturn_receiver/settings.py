"""The receiver's settings: environment variables, read once, at the start."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from keyturn_contract.signature import parse_public_key
from keyturn_receiver.core.policy import Default


class PollMode(StrEnum):
    """How the poller asks AWS for versions.

    LIST reads the names and versions of a whole account, 100 per call; DESCRIBE makes one call for each bound secret.
    """

    LIST = "list"
    DESCRIBE = "describe"


class Settings(BaseSettings):
    """Each field is the variable KEYTURN_<NAME>. Region, end points and credentials of AWS are AWS's own variables."""

    model_config = SettingsConfigDict(
        env_prefix="KEYTURN_", frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True
    )

    signing_key_secret_id: str = ""
    """Name or ARN of the AWS secret that holds the signing key (`whsec_...`); its current, previous and pending
    versions are all accepted. Required, unless there is a file or a public key."""

    signing_key_file: Path | None = None
    """File with signing keys (`whsec_...`), one a line, such as a mounted Kubernetes Secret; it may be replaced under
    way. All its keys are accepted, and those of the AWS secret beside them, if there is one."""

    signing_public_keys: Annotated[tuple[bytes, ...], NoDecode] = ()
    """Public keys of the stack's KMS key, separated by commas: `whpk_...`, or what `aws kms get-public-key --query
    PublicKey --output text` prints. With these alone the receiver holds nothing that could sign."""

    host: str = ""
    """Address to listen on; where it is empty, every one that the pod has, IPv4 or IPv6."""

    port: int = Field(8080, ge=0, le=65535)
    """Port of the notifications (`POST /v1/notifications`)."""

    operations_port: int = Field(9090, ge=0, le=65535)
    """Port of `/livez`, `/readyz` and `/metrics`: never exposed outside the cluster."""

    tls_certificate_file: Path | None = None
    """Certificate (PEM, with its chain) to serve notifications over TLS with; the file may be replaced under way."""

    tls_key_file: Path | None = None
    """Private key of that certificate."""

    deadline_seconds: float = Field(8.0, gt=0, le=60)
    """A delivery not applied within this time is answered with 503, and SQS sends it again; at the receiver's end it is
    answered within 7 s, if that is less."""

    drain_seconds: float = Field(5.0, ge=0, le=15)
    """After SIGTERM, new deliveries are still taken for this long, while the cluster learns to send them elsewhere; the
    rest of the end takes up to 12 s."""

    max_deliveries: int = Field(64, ge=1)
    """Deliveries served at once; one more is answered with 503."""

    max_connections: int = Field(1000, ge=1)
    """Connections held open at once; for one more, the oldest that owes a request is closed."""

    namespaces: Annotated[tuple[str, ...], NoDecode] = ()
    """Namespaces to serve, separated by commas; all of them where it is empty."""

    policy_default: Default = Default.DENY
    """What holds for namespaces without the annotation `keyturn.dev/allow-secrets`: `deny` or `allow`."""

    tenant_roles: bool = False
    """Whether bindings may name a ServiceAccount of their namespace whose AWS role reads for them."""

    rollouts: bool = True
    """Whether consumers are restarted. If not, no workload is watched or changed: Secrets are filled, no more."""

    deletions: bool = False
    """Whether Secrets whose binding asks for it (`keyturn.dev/on-delete: delete`) are deleted once AWS has deleted the
    secret. If not, they stay and say so."""

    poll_interval_seconds: float = Field(300.0, ge=1)
    """Time between two sweeps of the poller, give or take a tenth; at most 30 s while the event path is down."""

    poll_mode: PollMode = PollMode.LIST
    """How the poller asks AWS for versions: `list`, or `describe` for each bound secret; without the right to list it
    describes by itself."""

    heartbeat_silence_seconds: float = Field(180.0, ge=0)
    """After this time without a heartbeat the event path counts as down; 0 where no heartbeats are sent."""

    signing_key_interval_seconds: float = Field(60.0, ge=1)
    """Time between two looks for a new signing key."""

    concurrency: int = Field(128, ge=4)
    """Bindings reconciled at once. Background work takes at most half, one AWS secret at most a quarter of it."""

    kubernetes_requests: int = Field(32, ge=1)
    """Calls to the Kubernetes API under way at once, while it bears them; fewer when it does not."""

    aws_threads: int = Field(32, ge=1)
    """Calls to AWS under way at once."""

    watch_seconds: float = Field(60.0, ge=1)
    """The longest that one watch lasts; silence for a quarter longer means that its connection is dead."""

    resync_seconds: float = Field(3600.0, ge=1)
    """Time after which everything that is watched is listed anew."""

    stuck_seconds: float = Field(300.0, ge=10)
    """A part of the receiver that makes no progress for this long fails the liveness probe. A healthy wait for an AWS
    or a Kubernetes that hangs takes up to 30 s."""

    lease_namespace: str = "keyturn"
    """Namespace of the Leases: the one that a replica holds to run the poller, and the one that tells of heartbeats."""

    lease_name: str = "keyturn"
    """What the names of these Leases begin with."""

    traces: bool = False
    """Whether to send traces; where to is for OpenTelemetry's own variables (`OTEL_EXPORTER_OTLP_ENDPOINT`)."""

    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")
    """Logs are JSON lines on standard output."""

    @field_validator("signing_public_keys", mode="before")
    @classmethod
    def _parse_public_keys(cls, text: object) -> object:
        return tuple(map(parse_public_key, filter(None, text.split(",")))) if isinstance(text, str) else text

    @field_validator("signing_key_file", "tls_certificate_file", "tls_key_file", mode="before")
    @classmethod
    def _nothing_is_no_file(cls, text: object) -> object:
        return None if text == "" else text

    @field_validator("namespaces", mode="before")
    @classmethod
    def _parse_namespaces(cls, text: object) -> object:
        return tuple(filter(None, map(str.strip, text.split(",")))) if isinstance(text, str) else text

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_certificate_file is None) != (self.tls_key_file is None):
            raise ValueError("set both KEYTURN_TLS_CERTIFICATE_FILE and KEYTURN_TLS_KEY_FILE, or neither")
        return self

    @model_validator(mode="after")
    def _holds_a_key(self) -> Self:
        if not (self.signing_key_secret_id or self.signing_key_file or self.signing_public_keys):
            raise ValueError(
                "set KEYTURN_SIGNING_KEY_SECRET_ID, KEYTURN_SIGNING_KEY_FILE or KEYTURN_SIGNING_PUBLIC_KEYS"
            )
        return self


def read_settings() -> Settings:
    """Read them from the environment; one that is wrong ends the process with status 2, and says which."""
    try:
        return Settings()  # type: ignore[call-arg]  # they come from the environment
    except ValidationError as error:
        for fault in error.errors(include_input=False, include_url=False):
            name = "KEYTURN_" + str(fault["loc"][0]).upper() if fault["loc"] else "settings"
            print(f"{name}: {fault['msg']}. See docs/settings.md.", file=sys.stderr)
        sys.exit(2)
