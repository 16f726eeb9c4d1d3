"""The official client's configuration, credentials and connections; of its models and its way of calling, nothing.

What it does for each request of its own (models, headers, a look for proxies) costs as much as the request itself.
"""

import os
import time
from collections.abc import Mapping
from typing import Any
from urllib.request import getproxies

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration
from yarl import URL

CREDENTIALS_SECONDS = 1.0  # for which a token is used without asking whether there is a new one


class Transport:
    """Sends requests as the pod's ServiceAccount, or as KUBECONFIG's current context says."""

    def __init__(self, client: ApiClient) -> None:
        rest = client.rest_client
        self._client = client
        self._host = client.configuration.host
        rest.pool_manager = rest.pool_manager or rest._create_pool_manager()  # as its own first request does
        self._session: aiohttp.ClientSession = rest.pool_manager
        self._options: dict[str, Any] = {}
        if client.configuration.tls_server_name:
            self._options["server_hostname"] = client.configuration.tls_server_name
        if rest.proxy:
            self._options |= {"proxy": rest.proxy, "proxy_headers": rest.proxy_headers}
        self._credentials: dict[str, str] = {}
        self._asked_at = -CREDENTIALS_SECONDS

    @classmethod
    async def connect(cls, connections: int) -> "Transport":
        """Read the configuration; at most ``connections`` are held at once."""
        settings = Configuration()
        if "KUBECONFIG" in os.environ:
            file = os.environ["KUBECONFIG"]  # by name: the client has looked at the variable when it was imported
            await config.load_kube_config(file, client_configuration=settings, persist_config=False)
        else:
            config.load_incluster_config(client_configuration=settings)
        settings.connection_pool_maxsize = connections
        # Else each request looks for a proxy and a .netrc, in a thread each.
        settings.client_session_kwargs = {"trust_env": bool(getproxies())}
        return cls(ApiClient(settings))

    async def send(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None, timeouts: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        """Send one request for ``target``, a path and query that are encoded already. Raises as aiohttp does."""
        if time.monotonic() - self._asked_at >= CREDENTIALS_SECONDS:
            self._asked_at = time.monotonic()
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
