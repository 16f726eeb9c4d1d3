"""HTTP transport to the API server. It uses the official client only for configuration, credentials and connections.

The client's own request methods (with their models, headers and look-up of proxies) cost as much CPU time as the
request itself: docs/adr/012-http-transport-to-the-api-server.md.
"""

import logging
import os
import time
from collections.abc import Mapping
from typing import Any

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration
from yarl import URL

from keyturn_receiver import proxies

CREDENTIALS_TTL = 1.0  # seconds between two looks for a renewed token

_log = logging.getLogger(__name__)


class Transport:
    """HTTP transport. It sends requests with the pod's ServiceAccount, or with the current context of KUBECONFIG.

    If ``in_cluster`` is true, the client has the pod's own configuration. It then never calls the API server through a
    proxy, because the API server is inside the cluster, and NO_PROXY seldom contains its address.
    """

    def __init__(self, client: ApiClient, in_cluster: bool = False) -> None:
        rest = client.rest_client
        self._client = client
        self._host = client.configuration.host
        rest.pool_manager = rest.pool_manager or rest._create_pool_manager()  # the client does so at its first request
        self._session: aiohttp.ClientSession = rest.pool_manager
        self._options: dict[str, Any] = {}
        if client.configuration.tls_server_name:
            self._options["server_hostname"] = client.configuration.tls_server_name
        if proxy := rest.proxy or (None if in_cluster else _environment_proxy(self._host)):
            self._options |= {"proxy": URL(proxy), "proxy_headers": rest.proxy_headers}
        self._credentials: dict[str, str] = {}
        self._credentials_at = -CREDENTIALS_TTL

    @classmethod
    async def connect(cls, connections: int) -> "Transport":
        """Read the configuration, and return a transport that keeps at most ``connections`` connections open."""
        settings = Configuration()
        in_cluster = "KUBECONFIG" not in os.environ
        if not in_cluster:
            # The path is passed explicitly, because the client reads the variable only once, when it is imported.
            file = os.environ["KUBECONFIG"]
            await config.load_kube_config(file, client_configuration=settings, persist_config=False)
        else:
            config.load_incluster_config(client_configuration=settings)
        settings.connection_pool_maxsize = connections
        # With trust_env, aiohttp would read .netrc and the proxy variables in a thread for each request. It would also
        # send the credentials that .netrc has for the host.
        settings.client_session_kwargs = {"trust_env": False}
        return cls(ApiClient(settings), in_cluster)

    async def send(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None, timeouts: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        """Send one request. ``target`` is the encoded path with its query. Raises aiohttp's errors."""
        if time.monotonic() - self._credentials_at >= CREDENTIALS_TTL:
            self._credentials_at = time.monotonic()
            self._credentials = {}
            await self._client.update_params_for_auth(self._credentials, [], ["BearerToken"], target, method, None)
        return await self._session.request(
            method,
            URL(self._host + target, encoded=True),
            headers={**headers, **self._credentials},
            data=body,
            timeout=timeouts,
            **self._options,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()


def _environment_proxy(host: str) -> str | None:
    """Return the proxy for the API server, or None. The environment variables HTTPS_PROXY, HTTP_PROXY and NO_PROXY
    determine it."""
    proxy = proxies.proxy_for(host)
    if proxy and URL(proxy).scheme == "https":
        scheme = URL(host).scheme.upper()
        _log.warning("the proxy of %s_PROXY is ignored: it needs TLS, which is not supported", scheme)
        return None
    return proxy
