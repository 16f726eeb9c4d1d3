"""A fake of the SDK's client for Secrets Manager, for tests without a network."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from botocore.exceptions import ClientError

from keyturn_receiver.sources.caller_identity import TenantIdentity
from keyturn_receiver.sources.secrets_manager import SecretsManager
from keyturn_receiver.sources.store_health import StoreHealth
from keyturn_receiver.sources.stores import Identity, StoreKey
from keyturn_receiver.sources.thread_pools import ThreadPools
from keyturn_receiver.telemetry.metrics import Metrics

ACCOUNT = "123456789012"


def aws_error(code: str, operation: str = "GetSecretValue") -> ClientError:
    """Return the error that the SDK raises when AWS answers with this code."""
    return ClientError({"Error": {"Code": code, "Message": "hunter2-canary"}}, operation)


def arn_of(name: str, account: str = ACCOUNT, region: str = "us-east-1") -> str:
    """Return the ARN of a secret."""
    return f"arn:aws:secretsmanager:{region}:{account}:secret:{name}-AbCdEf"


def value_of(name: str, account: str = ACCOUNT, region: str = "us-east-1") -> dict[str, Any]:
    """Return a secret as GetSecretValue returns it."""
    return {"ARN": arn_of(name, account, region), "Name": name, "VersionId": "v1", "SecretString": f"{account} {name}"}


class FakeClient:
    """A fake of the SDK's client. ``calls`` has each action with its arguments. ``answer`` returns the answer to each
    call."""

    def __init__(self, answer: Callable[[str, dict[str, Any]], Any], region: str = "us-east-1") -> None:
        self.meta = SimpleNamespace(region_name=region)
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.answer = answer

    def __getattr__(self, action: str) -> Callable[..., Any]:
        def call(**arguments: Any) -> Any:
            self.calls.append((action, arguments))
            return self.answer(action, arguments)

        return call

    def actions(self) -> list[str]:
        """Return the actions that were called, in order."""
        return [action for action, _ in self.calls]


def secrets_manager(
    client: Any, account: str = "", trusted: bool = True, shared: tuple[ThreadPools, Metrics] | None = None
) -> SecretsManager:
    """Return the receiver's client on top of a fake one. It has its own threads and metrics, unless ``shared`` gives
    threads and metrics that others use, too."""
    identity, health = TenantIdentity(account), StoreHealth(trusted)
    pools, metrics = shared or (ThreadPools.of(4), Metrics())
    return SecretsManager(client, client, pools, metrics, identity, health)


async def no_tenant(key: StoreKey) -> Identity:
    """Fail, because this test has no tenants whose identity could be looked up."""
    raise AssertionError(f"{key.account} was looked up")
