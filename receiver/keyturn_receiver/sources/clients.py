"""Clients of AWS: how long they wait, how often they try, and whose credentials they hold."""

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING

import boto3
import botocore.session
from botocore import UNSIGNED
from botocore.config import Config

if TYPE_CHECKING:
    from botocore.config import _RetryDict
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_sts import STSClient

_ONCE_MORE: "_RetryDict" = {"mode": "adaptive", "total_max_attempts": 2}


@dataclass(frozen=True, slots=True)
class Credentials:
    """Temporary credentials of a role; never printed."""

    access_key_id: str
    secret_access_key: str
    session_token: str
    expire_at: datetime

    def __repr__(self) -> str:
        return f"Credentials(until {self.expire_at:%H:%M:%SZ})"


@cache
def _session() -> boto3.session.Session:
    """One for all clients: what it reads of the services is large. Only the event loop's thread may use it."""
    core = botocore.session.get_session()
    # All SDKs go by AWS_REGION but this one, which knows the older AWS_DEFAULT_REGION alone.
    # https://docs.aws.amazon.com/sdkref/latest/guide/feature-region.html
    if region := os.environ.get("AWS_REGION"):
        core.set_config_variable("region", region)
    # Half of what reading a list takes would go into dates of the local time zone.
    core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_utc)
    return boto3.session.Session(botocore_session=core)


def _utc(timestamp: object) -> datetime:
    """Read a date as AWS's JSON has it, in seconds since the epoch; as other protocols have it, in ISO 8601."""
    if isinstance(timestamp, int | float):
        return datetime.fromtimestamp(timestamp, UTC)
    return datetime.fromisoformat(str(timestamp))


def default_region() -> str | None:
    """The region that AWS's own variables name."""
    return _session().region_name


def secrets_manager(region: str, connections: int, credentials: Credentials | None = None) -> "SecretsManagerClient":
    """Build a client; without ``credentials`` it finds the receiver's own, and refreshes them by itself.

    A client may be shared by threads (a session may not); a hung call ends within fifteen seconds.
    """
    config = Config(
        region_name=region,
        connect_timeout=2,
        read_timeout=5,
        max_pool_connections=connections,
        retries=_ONCE_MORE,
        user_agent_extra="keyturn-receiver",
    )
    if credentials is None:
        client: SecretsManagerClient = _session().client("secretsmanager", config=config)
        return client
    theirs: SecretsManagerClient = _session().client(
        "secretsmanager",
        config=config,
        aws_access_key_id=credentials.access_key_id,
        aws_secret_access_key=credentials.secret_access_key,
        aws_session_token=credentials.session_token,
    )
    return theirs


def sts(region: str) -> "STSClient":
    """Build a client for AssumeRoleWithWebIdentity, unsigned: it must not depend on anybody's credentials."""
    config = Config(
        region_name=region, signature_version=UNSIGNED, connect_timeout=2, read_timeout=5, retries=_ONCE_MORE
    )
    client: STSClient = _session().client("sts", config=config)
    return client
