"""AWS clients: calls end soon, throttling of one secret slows down no other, and building a client fetches nothing."""

from datetime import UTC, datetime, timedelta

import pytest
from botocore.exceptions import CredentialRetrievalError

from keyturn_receiver.sources import clients

KEYS = clients.Credentials("key", "secret", "token", datetime.now(UTC) + timedelta(hours=1))


def fail(*_: object) -> None:
    raise CredentialRetrievalError(provider="container-role", error_msg="the agent is not there")


@pytest.mark.parametrize("region", ["us-east-1", "eu-west-1"])
def test_retries_and_timeouts_of_every_client(region: str) -> None:
    secrets_manager, sts = clients.secrets_manager(region, 7, KEYS), clients.sts(region)
    for client in (secrets_manager, sts):
        config = client.meta.config
        # "adaptive" has one bucket for a client, so one secret that AWS throttles would slow down all others.
        assert config.retries == {"mode": "standard", "total_max_attempts": 2}
        assert (config.connect_timeout, config.read_timeout) == (2, 5)
        assert client.meta.region_name == region
    assert secrets_manager.meta.config.max_pool_connections == 7


def test_sdks_own_calls_for_credentials_end_soon_as_well() -> None:
    config = clients._core().get_default_client_config()
    assert (config.connect_timeout, config.read_timeout) == (2, 5)
    assert config.retries["total_max_attempts"] == 2


def test_client_of_a_tenant_does_not_need_the_own_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients._core(), "get_credentials", fail)
    assert clients.secrets_manager("us-east-1", 1, KEYS)
    assert clients.sts("us-east-1")
    with pytest.raises(CredentialRetrievalError):
        clients.secrets_manager("us-east-1", 1)  # so the own identity is checked before
