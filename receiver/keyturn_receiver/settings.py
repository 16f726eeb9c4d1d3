"""The receiver's settings: environment variables, read once, at the start."""

from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from keyturn_contract.signature import parse_public_key
from keyturn_receiver.core.policy import Default


class Settings(BaseSettings):
    """Each field is the variable KEYTURN_<NAME>. Region, end points and credentials of AWS are AWS's own variables."""

    model_config = SettingsConfigDict(
        env_prefix="KEYTURN_", frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True
    )

    signing_key_secret_id: str = ""
    """Name or ARN of the AWS secret that holds the signing key (`whsec_...`); its current, previous and pending
    versions are all accepted. Required, unless there are public keys."""

    signing_public_keys: Annotated[tuple[bytes, ...], NoDecode] = ()
    """Public keys of the stack's KMS key, separated by commas: `whpk_...`, or what `aws kms get-public-key --query
    PublicKey --output text` prints. With these alone the receiver holds nothing that could sign."""

    host: str = "0.0.0.0"  # noqa: S104 - a pod serves on its own address
    """Address to listen on."""

    port: int = Field(8080, ge=0, le=65535)
    """Port of the notifications (`POST /v1/notifications`)."""

    operations_port: int = Field(9090, ge=0, le=65535)
    """Port of `/livez`, `/readyz` and `/metrics`: never exposed outside the cluster."""

    deadline_seconds: float = Field(8.0, gt=0, le=60)
    """A delivery not applied within this time is answered with 503, and SQS sends it again."""

    max_deliveries: int = Field(64, ge=1)
    """Deliveries served at once; one more is answered with 503."""

    policy_default: Default = Default.DENY
    """What holds for namespaces without the annotation `keyturn.dev/allow-secrets`: `deny` or `allow`."""

    poll_interval_seconds: float = Field(300.0, ge=1)
    """Time between two sweeps of the poller, give or take a tenth."""

    signing_key_interval_seconds: float = Field(60.0, ge=1)
    """Time between two looks for a new signing key."""

    concurrency: int = Field(32, ge=1)
    """Bindings reconciled at once."""

    aws_threads: int = Field(16, ge=1)
    """Calls to AWS under way at once."""

    lease_namespace: str = "keyturn"
    """Namespace of the Lease that one replica holds to run the poller."""

    lease_name: str = "keyturn-poller"
    """Name of that Lease."""

    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")
    """Logs are JSON lines on standard output."""

    @field_validator("signing_public_keys", mode="before")
    @classmethod
    def _parse_public_keys(cls, text: object) -> object:
        return tuple(map(parse_public_key, filter(None, text.split(",")))) if isinstance(text, str) else text

    @model_validator(mode="after")
    def _holds_a_key(self) -> Self:
        if not self.signing_key_secret_id and not self.signing_public_keys:
            raise ValueError("set KEYTURN_SIGNING_KEY_SECRET_ID or KEYTURN_SIGNING_PUBLIC_KEYS")
        return self
