"""A receiver whose only way to AWS is a proxy: it asks the proxy for AWS, and for nothing else."""

import json
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import trustme

from keyturn_local.aws.sdk import REGION
from keyturn_local.aws.server import LocalAws
from keyturn_local.processes.program import StartFailed
from keyturn_local.receiver.process import LocalReceiver
from support.connect_proxy import ConnectProxy
from support.fault_env import FaultEnv
from support.http_server import HttpServer, reply
from support.wait import eventually

SECRETS_MANAGER = f"secretsmanager.{REGION}.amazonaws.com"


class PodIdentityAgent(HttpServer):
    """A fake agent of EKS Pod Identity, at a host name of this machine. It gives credentials to every caller. ``asked``
    counts the requests with the right token."""

    def __init__(self) -> None:
        self.asked = 0
        super().__init__(self._answer)

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        self.asked += request.headers.get("Authorization") == "of-the-pod"
        expiration = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        keys = {"AccessKeyId": "testing", "SecretAccessKey": "testing", "Token": "testing"}
        reply(request, 200, json.dumps({**keys, "Expiration": expiration}).encode())

    def variables(self) -> dict[str, str]:
        """Return the variables that EKS sets in a pod. The agent's host is a name, so no address range covers it."""
        return {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://localhost:{self.port}/v1/credentials",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN": "of-the-pod",
        }


@pytest.fixture
def agent() -> Iterator[PodIdentityAgent]:
    made = PodIdentityAgent()
    yield made
    made.close()


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "aws-ca.crt")
    return made


@pytest.fixture
def proxy(session_aws: LocalAws, authority: trustme.CA) -> Iterator[ConnectProxy]:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(SECRETS_MANAGER).configure_cert(tls)
    with ConnectProxy({SECRETS_MANAGER: session_aws.endpoint_url}, tls) as running:
        yield running


def receiver_behind(proxy: ConnectProxy, agent: PodIdentityAgent, env: FaultEnv, no_proxy: str) -> LocalReceiver:
    """Return a receiver as in a pod: it knows AWS only by host names, and uses the proxy for every scheme."""
    variables = {
        "AWS_REGION": REGION,
        "AWS_CA_BUNDLE": str(env.directory / "aws-ca.crt"),
        **agent.variables(),
        **{name: proxy.url for name in ("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy")},
        "NO_PROXY": no_proxy,
        "no_proxy": no_proxy,
    }
    kubeconfig = env.cluster.kubeconfig_for(env.receiver_namespace, "keyturn", env.directory)
    settings = {"KEYTURN_POLL_INTERVAL_SECONDS": "1", "KEYTURN_DELIVERIES": "false"}
    made = LocalReceiver(env.directory, kubeconfig, variables, "", env.receiver_namespace, settings, "behind-proxy")
    env.receivers.append(made)
    return made


@pytest.mark.parametrize("no_proxy", ["127.0.0.0/8", "10.0.0.0/8,127.0.0.1/32", "172.20.0.0/16, 127.0.0.1"])
def test_receiver_asks_the_proxy_for_aws_alone(
    proxy: ConnectProxy, agent: PodIdentityAgent, env: FaultEnv, no_proxy: str
) -> None:
    """An entry of NO_PROXY covers the API server, which is at a literal address. No entry covers Pod Identity's
    agent."""
    receiver_behind(proxy, agent, env, no_proxy).start(60)
    env.create_bound_secret()
    env.rotate()
    eventually(env.is_current)
    assert agent.asked
    assert set(proxy.asked) == {f"CONNECT {SECRETS_MANAGER}:443"}


def test_receiver_whose_proxy_refuses_says_that_aws_cannot_be_reached(
    agent: PodIdentityAgent, env: FaultEnv, authority: trustme.CA
) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(SECRETS_MANAGER).configure_cert(tls)
    with ConnectProxy({}, tls) as refusing:
        receiver = receiver_behind(refusing, agent, env, "127.0.0.0/8")
        with pytest.raises(StartFailed, match="was not ready"):
            receiver.start(15)
        status, told = receiver.ready()
    assert status == 503
    assert "AWS credentials: not checked yet: ListSecrets: AWS cannot be reached (ProxyConnectionError)" in told
    assert set(refusing.asked) == {f"CONNECT {SECRETS_MANAGER}:443"}
