"""AWS clients: calls end soon, throttling of one secret slows down no other, building a shared client needs no
credentials, and each call on a shared client is signed with its own credentials."""

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace

import pytest
from botocore.exceptions import CredentialRetrievalError, NoCredentialsError

from keyturn_receiver.sources import clients
from keyturn_receiver.sources.call_credentials import Credentials
from keyturn_receiver.sources.caller_identity import OwnIdentity, TenantIdentity
from support.http_server import HttpServer, body_of, reply


def fail(*_: object) -> None:
    raise CredentialRetrievalError(provider="container-role", error_msg="the agent is not there")


@pytest.mark.parametrize("region", ["us-east-1", "eu-west-1"])
def test_retries_and_timeouts_of_every_client(region: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "own")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "own-secret")
    secrets_manager, shared = clients.secrets_manager(region, 7), clients.shared_secrets_manager(region, 7)
    # In the retry mode "adaptive", a client has one token bucket, so one secret that AWS throttles would slow down all
    # others. In the mode "standard", a client has one quota of retries, which one of many tenants could use up.
    for client in (secrets_manager, shared, clients.sts(region)):
        config = client.meta.config
        assert config.retries == {"mode": "legacy", "total_max_attempts": 2}
        assert (config.connect_timeout, config.read_timeout) == (2, 5)
        assert client.meta.region_name == region
    for client in (secrets_manager, shared):
        assert client.meta.config.max_pool_connections == 7


def test_sdks_own_calls_for_credentials_end_soon_as_well() -> None:
    config = clients._core().get_default_client_config()
    assert (config.connect_timeout, config.read_timeout) == (2, 5)
    assert config.retries == {"mode": "legacy", "total_max_attempts": 2}


def test_client_of_a_tenant_does_not_need_the_own_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients._core(), "get_credentials", fail)
    assert clients.shared_secrets_manager("us-east-1", 1)
    assert clients.sts("us-east-1")
    with pytest.raises(CredentialRetrievalError):
        # This fetches the receiver's own credentials, so callers first check the receiver's own identity.
        clients.secrets_manager("us-east-1", 1)


def credentials(name: str) -> Credentials:
    return Credentials(f"key-{name}", f"secret-{name}", f"token-{name}", datetime.now(UTC) + timedelta(hours=1))


def test_each_call_on_a_shared_client_is_signed_with_its_own_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four threads call as 40 identities, the receiver's own among them. Each request has the key and the token of the
    identity that sent it. A call of an identity without credentials fails."""
    seen: dict[str, tuple[str, str]] = {}

    def answer(request: BaseHTTPRequestHandler) -> None:
        asked = re.findall(rb'"SecretId": ?"([^"]+)"', body_of(request))[0].decode()
        key = re.findall(r"Credential=([^/]+)/", request.headers["Authorization"])[0]
        seen[asked] = (key, request.headers["X-Amz-Security-Token"])
        reply(request, 200, b"{}")

    server = HttpServer(answer)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    own = OwnIdentity(lambda: SimpleNamespace(get_frozen_credentials=lambda: credentials("own").frozen()), {})
    identities = [own, *(TenantIdentity("", credentials=credentials(str(number))) for number in range(39))]
    client = clients.shared_secrets_manager("us-east-1", 3)

    def call(number: int) -> None:
        with identities[number].call():
            client.get_secret_value(SecretId=f"s{number}")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(call, list(range(40)) * 3))
    server.close()
    wanted = {f"s{number}": (f"key-{number - 1}", f"token-{number - 1}") for number in range(1, 40)}
    assert seen == {"s0": ("key-own", "token-own"), **wanted}
    with TenantIdentity("").call(), pytest.raises(NoCredentialsError):
        client.get_secret_value(SecretId="nobody")


def test_clients_that_identities_share_are_built_once_for_a_region() -> None:
    first = clients.shared_secrets_manager("eu-west-1", 5)
    assert clients.shared_secrets_manager("eu-west-1", 5) is first
    assert clients.shared_secrets_manager("eu-central-1", 5) is not first


def test_credentials_are_not_printed() -> None:
    assert "secret-canary" not in repr(credentials("canary"))
    assert "token-canary" not in repr(TenantIdentity("1", credentials=credentials("canary")))
