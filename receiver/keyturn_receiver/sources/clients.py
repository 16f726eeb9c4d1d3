"""AWS clients, with their timeouts, retries and credentials."""

import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

import boto3
import botocore.session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import UnknownRegionError

from keyturn_receiver.core.regions import Regions
from keyturn_receiver.sources.caller_identity import OwnIdentity

if TYPE_CHECKING:
    from botocore.config import _RetryDict
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_sts import STSClient

# With "adaptive", one secret that AWS throttles would slow down every call of its client.
# https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html
_RETRY_ONCE: "_RetryDict" = {"mode": "standard", "total_max_attempts": 2}


@dataclass(frozen=True, slots=True)
class Credentials:
    """Temporary credentials of a role. Their values are never printed."""

    access_key_id: str
    secret_access_key: str
    session_token: str
    expires_at: datetime

    def __repr__(self) -> str:
        return f"Credentials(until {self.expires_at:%H:%M:%SZ})"


_building = threading.Lock()  # a session is not thread-safe, so clients are built one at a time


@cache
def _core() -> botocore.session.Session:
    """Return the SDK's session that all clients share, because the service models that a session loads are large.

    Every call ends within 15 seconds. That includes the session's own calls, such as those to STS for the receiver's
    own credentials.
    """
    core = botocore.session.get_session()
    core.set_default_client_config(Config(connect_timeout=2, read_timeout=5, retries=_RETRY_ONCE))
    # Every other AWS SDK reads AWS_REGION. This SDK reads only the older AWS_DEFAULT_REGION.
    # https://docs.aws.amazon.com/sdkref/latest/guide/feature-region.html
    if region := os.environ.get("AWS_REGION"):
        core.set_config_variable("region", region)
    # The SDK's own date parser converts dates to the local time zone, which takes half of the time for parsing a list.
    core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_utc)
    return core


@cache
def _session() -> boto3.session.Session:
    return boto3.session.Session(botocore_session=_core())


@cache
def own_identity() -> OwnIdentity:
    """Return the receiver's own identity."""
    return OwnIdentity(_core().get_credentials, os.environ)


def _utc(timestamp: object) -> datetime:
    """Parse a date. AWS's JSON protocol uses seconds since the epoch, and its other protocols use ISO 8601."""
    if isinstance(timestamp, int | float):
        return datetime.fromtimestamp(timestamp, UTC)
    return datetime.fromisoformat(str(timestamp))


def default_region() -> str | None:
    """Return the region that AWS's own environment variables name, or None."""
    return _session().region_name


def regions(named: Iterable[str] = ()) -> Regions:
    """Return the regions that bindings may name: the receiver's own, and those in ``named``.

    If ``named`` is empty, these are all regions of the receiver's own partition that the SDK knows.
    """
    own, session = default_region(), _session()
    try:
        partition = session.get_partition_for_region(own) if own else "aws"
    except UnknownRegionError:
        partition = "aws"
    known = list(named) or session.get_available_regions("secretsmanager", partition)
    return Regions(partition, frozenset([*known, *([own] if own else [])]))


def secrets_manager(region: str, connections: int, credentials: Credentials | None = None) -> "SecretsManagerClient":
    """Return a client for Secrets Manager. The client is thread-safe, and a call that hangs ends within 15 seconds.

    Building a client takes some tenths of a second of CPU time, so it must not happen on the event loop. Without
    ``credentials``, the client uses the receiver's own credentials and renews them by itself. In that case call
    ``own_identity().check()`` first. Otherwise building the client would fetch the credentials.
    """
    config = Config(
        region_name=region,
        max_pool_connections=connections,
        user_agent_extra="keyturn-receiver",
    )
    tenant: dict[str, Any] = (
        {}
        if credentials is None
        else {
            "aws_access_key_id": credentials.access_key_id,
            "aws_secret_access_key": credentials.secret_access_key,
            "aws_session_token": credentials.session_token,
        }
    )
    with _building:
        client: SecretsManagerClient = _session().client("secretsmanager", config=config, **tenant)
    return client


@cache
def sts(region: str) -> "STSClient":
    """Return a client for AssumeRoleWithWebIdentity. It does not sign its requests, so it needs no credentials."""
    config = Config(region_name=region, signature_version=UNSIGNED)
    with _building:
        client: STSClient = _session().client("sts", config=config)
    return client
