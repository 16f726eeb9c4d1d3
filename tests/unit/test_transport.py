"""Requests to the API server carry only the configured credentials, and use the proxy that the environment names."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
import trustme
import yaml
from kubernetes.aio.config import incluster_config

from keyturn_receiver.cluster.transport import Transport

pytestmark = pytest.mark.anyio
TIMEOUTS = aiohttp.ClientTimeout(total=5)
NAMES = [name for each in ("http_proxy", "https_proxy", "all_proxy", "no_proxy") for name in (each, each.upper())]


class Recorder:
    """A server that records the head of each request. It answers CONNECT (the request to a proxy) with 502 and all
    other requests with 200."""

    def __init__(self) -> None:
        self.heads: list[str] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.heads.append(head)
                status = "502 Bad Gateway" if head.startswith("CONNECT") else "200 OK"
                writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\n{{}}".encode())
        writer.close()


@asynccontextmanager
async def listening(tls: ssl.SSLContext | None = None) -> AsyncIterator[Recorder]:
    recorder = Recorder()
    server = await asyncio.start_server(recorder.serve, "127.0.0.1", 0, ssl=tls)
    recorder.port = server.sockets[0].getsockname()[1]
    async with server:
        yield recorder


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Set up an environment without proxies. Its netrc file has credentials for every host."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login stranger password made-up\ndefault login stranger password made-up\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


async def send(environment: pytest.MonkeyPatch, tmp_path: Path, server: str, token: str = "", proxy: str = "") -> int:
    """Send one request using a kubeconfig. Return the status of the reply."""
    cluster = {"server": server, **({"proxy-url": proxy} if proxy else {})}
    kubeconfig = {
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": {"token": token} if token else {}}],
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
    environment.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    transport = await Transport.connect(4)
    try:
        response = await transport.send("GET", "/api/v1/namespaces", {}, None, TIMEOUTS)
        await response.read()
        return response.status
    finally:
        await transport.close()


@pytest.mark.parametrize("token", ["", "of-the-kubeconfig"])
@pytest.mark.parametrize("variables", [{}, {"NO_PROXY": "127.0.0.1"}, {"HTTP_PROXY": "{proxy}"}], ids=str)
async def test_credentials_of_a_netrc_file_never_reach_a_request(
    environment: pytest.MonkeyPatch, tmp_path: Path, variables: dict[str, str], token: str
) -> None:
    async with listening() as server, listening() as proxy:
        for name, value in variables.items():
            environment.setenv(name, value.format(proxy=f"http://127.0.0.1:{proxy.port}"))
        assert await send(environment, tmp_path, f"http://127.0.0.1:{server.port}", token) == 200
        (head,) = [*server.heads, *proxy.heads]
        assert "Basic" not in head
        assert ("authorization: Bearer of-the-kubeconfig\r\n" in head) is bool(token)
        assert bool(proxy.heads) is ("HTTP_PROXY" in variables)


async def test_proxy_of_the_environment_gets_the_request_and_its_credentials(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with listening() as server, listening() as proxy:
        environment.setenv("http_proxy", f"http://me:pass@127.0.0.1:{proxy.port}")
        assert await send(environment, tmp_path, f"http://127.0.0.1:{server.port}", "of-the-kubeconfig") == 200
        (head,) = proxy.heads
        assert head.startswith(f"GET http://127.0.0.1:{server.port}/api/v1/namespaces HTTP/1.1\r\n")
        assert "Proxy-Authorization: Basic bWU6cGFzcw==\r\n" in head
        assert server.heads == []


async def test_https_goes_through_a_tunnel_of_the_https_proxy(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with listening() as proxy:
        environment.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        with pytest.raises(aiohttp.ClientHttpProxyError):
            await send(environment, tmp_path, "https://192.0.2.1:6443")
        (head,) = proxy.heads
        assert head.startswith("CONNECT 192.0.2.1:6443 HTTP/1.1\r\n")
        assert "Basic" not in head


@pytest.fixture
def pod(environment: pytest.MonkeyPatch, tmp_path: Path) -> ssl.SSLContext:
    """Set up the environment of a pod, and return the TLS context of its API server at 127.0.0.1."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    (tmp_path / "token").write_text("of-the-pod")
    environment.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    environment.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    environment.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    environment.delenv("KUBECONFIG", raising=False)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.mark.parametrize("no_proxy", ["", "172.20.0.0/16", "example.org"])
async def test_pod_reaches_its_api_server_without_a_proxy(
    environment: pytest.MonkeyPatch, pod: ssl.SSLContext, no_proxy: str
) -> None:
    async with listening(pod) as server, listening() as proxy:
        environment.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
        for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"):
            environment.setenv(name, f"http://127.0.0.1:{proxy.port}")
        environment.setenv("NO_PROXY", no_proxy)
        transport = await Transport.connect(4)
        try:
            response = await transport.send("GET", "/api/v1/namespaces", {}, None, TIMEOUTS)
            assert response.status == 200
        finally:
            await transport.close()
        (head,) = server.heads
        assert "authorization: bearer of-the-pod\r\n" in head.lower()
        assert proxy.heads == []


@pytest.mark.parametrize("no_proxy", ["example.org,127.0.0.1", "10.0.0.0/8, 127.0.0.0/8"])
async def test_no_proxy_names_hosts_that_are_reached_directly(
    environment: pytest.MonkeyPatch, tmp_path: Path, no_proxy: str
) -> None:
    async with listening() as server, listening() as proxy:
        environment.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        environment.setenv("NO_PROXY", no_proxy)
        assert await send(environment, tmp_path, f"http://127.0.0.1:{server.port}") == 200
        assert len(server.heads) == 1
        assert proxy.heads == []


async def test_proxy_that_needs_tls_is_ignored_with_a_warning(
    environment: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening() as server, listening() as proxy:
        environment.setenv("HTTP_PROXY", f"https://127.0.0.1:{proxy.port}")
        assert await send(environment, tmp_path, f"http://127.0.0.1:{server.port}") == 200
        assert len(server.heads) == 1
        assert proxy.heads == []
    assert "HTTP_PROXY is ignored" in caplog.text


async def test_proxy_of_the_kubeconfig_goes_before_the_environment(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with listening() as server, listening() as proxy, listening() as configured:
        environment.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        url = f"http://127.0.0.1:{configured.port}"
        assert await send(environment, tmp_path, f"http://127.0.0.1:{server.port}", proxy=url) == 200
        assert len(configured.heads) == 1
        assert server.heads == proxy.heads == []
