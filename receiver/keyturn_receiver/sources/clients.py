"""AWS clients. This module sets their timeouts, retries and credentials."""

import os
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import TYPE_CHECKING, cast

import boto3
import botocore.session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.credentials import CredentialResolver
from botocore.exceptions import UnknownRegionError

from keyturn_receiver.core.regions import Regions
from keyturn_receiver.sources.call_credentials import CallCredentialsProvider
from keyturn_receiver.sources.caller_identity import OwnIdentity

if TYPE_CHECKING:
    from botocore.config import _RetryDict
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_sts import STSClient

# Every client serves several tenants. In the retry mode "adaptive", a client slows down all its calls when AWS
# throttles the calls for one secret. In the mode "standard", all calls of a client share one quota of retries, so the
# secrets of one tenant could use up the quota of all tenants. So the mode is "legacy".
# https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html
_RETRY_ONCE: "_RetryDict" = {"mode": "legacy", "total_max_attempts": 2}
MAX_SHARED_CLIENTS = 64  # one client per region; every partition of AWS has fewer regions than this

_building = threading.Lock()  # a session is not thread-safe, so clients are built one at a time


@cache
def _core() -> botocore.session.Session:
    """Return the SDK's session for the receiver's own credentials. The session is made only once, because the service
    models that it loads are large.

    A call that gets no answer ends within 15 seconds. This includes the session's own calls, such as the call to STS
    for the receiver's own credentials.
    """
    core = _new_session()
    # Every other AWS SDK reads AWS_REGION. This SDK reads only the older AWS_DEFAULT_REGION.
    # https://docs.aws.amazon.com/sdkref/latest/guide/feature-region.html
    if region := os.environ.get("AWS_REGION"):
        core.set_config_variable("region", region)
    return core


def _new_session() -> botocore.session.Session:
    session = botocore.session.get_session()
    session.set_default_client_config(Config(connect_timeout=2, read_timeout=5, retries=_RETRY_ONCE))
    # The SDK's own date parser converts dates to the local time zone. This conversion would take half of the time in
    # which a list is parsed.
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_utc)
    return session


@cache
def _shared() -> botocore.session.Session:
    """Return the SDK's session for the clients that all identities share. This session has no credentials of its
    own."""
    session = _new_session()
    session.register_component("credential_provider", CredentialResolver([CallCredentialsProvider()]))
    session.register_component("data_loader", _core().get_component("data_loader"))  # its models are large
    return session


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
    """Return the region that AWS's own environment variables, or the SDK's configuration file, name. Return None if
    they name none."""
    return _session().region_name


def regions(named: Iterable[str] = ()) -> Regions:
    """Return the regions that bindings may name: the receiver's own region, and the regions in ``named``.

    If ``named`` is empty, the result has all regions of the receiver's own partition that the SDK knows.
    """
    own, session = default_region(), _session()
    try:
        partition = session.get_partition_for_region(own) if own else "aws"
    except UnknownRegionError:
        partition = "aws"
    known = list(named) or session.get_available_regions("secretsmanager", partition)
    return Regions(partition, frozenset([*known, *([own] if own else [])]))


def secrets_manager(region: str, connections: int) -> "SecretsManagerClient":
    """Return a client for Secrets Manager that uses and renews the receiver's own credentials.

    The client is thread-safe. A call that hangs ends within 15 seconds. It takes some tenths of a second of CPU time to
    build a client, so this must not happen on the event loop. Call ``own_identity().check()`` first. Otherwise this
    function would also fetch the credentials.
    """
    with _building:
        client: SecretsManagerClient = _session().client("secretsmanager", config=_config(region, connections))
    return client


def shared_secrets_manager(region: str, connections: int) -> "SecretsManagerClient":
    """Return the client for Secrets Manager that all identities share in a region. The client is built only once.

    Each call needs credentials of its own (``call_credentials.call_with``). In all other respects, the client is like
    the client of ``secrets_manager``.
    """
    with _building:
        return _shared_secrets_manager(region, connections)


@lru_cache(MAX_SHARED_CLIENTS)
def _shared_secrets_manager(region: str, connections: int) -> "SecretsManagerClient":
    return cast("SecretsManagerClient", _shared().create_client("secretsmanager", config=_config(region, connections)))


def _config(region: str, connections: int) -> Config:
    return Config(region_name=region, max_pool_connections=connections, user_agent_extra="keyturn-receiver")


@cache
def sts(region: str) -> "STSClient":
    """Return a client for AssumeRoleWithWebIdentity. It does not sign its requests, so it needs no credentials."""
    config = Config(region_name=region, signature_version=UNSIGNED)
    with _building:
        return cast("STSClient", _shared().create_client("sts", config=config))
