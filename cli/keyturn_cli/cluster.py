"""Client for the API server of one cluster, with the rights of the caller.

It uses the official client for credentials and connections. Its models are not used: they cost several times as much as
JSON that is decoded for the wanted fields alone.
"""

import json
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import urllib3
from msgspec import DecodeError, Raw
from msgspec.json import Decoder

from keyturn_cli.credentials import credentials_errors
from keyturn_cli.errors import CliError, Forbidden, NotFound, Refused, Unreachable

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
PAGE_SIZE = 500  # objects that are requested at once, as in kubectl
CONNECTIONS = 8
TIMEOUT = urllib3.Timeout(connect=5, read=60)  # seconds

OBJECT = Decoder(dict[str, Any])  # keeps everything
_PAGE = Decoder(dict[str, Raw])
_RAW_ITEMS = Decoder(list[Raw] | None)


def path(group_version: str, resource: str, namespace: str | None = None, name: str | None = None) -> str:
    """Return the URL path of a resource. ``group_version`` is "v1" or "group/version"."""
    root = f"/apis/{group_version}" if "/" in group_version else f"/api/{group_version}"
    scope = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
    return f"{root}{scope}/{resource}" + (f"/{quote(name, safe='')}" if name else "")


class Cluster:
    """One cluster. Its methods can be called from several threads.

    ``context`` is the name of the kubeconfig's context, and ``namespace`` the context's namespace. Each method raises
    Unreachable if the API server does not answer, Forbidden, NotFound, and Refused for all other refusals.
    """

    def __init__(self, client: "ApiClient", context: str, namespace: str) -> None:
        self.context = context
        self.namespace = namespace
        self._client = client
        self._host: str = client.configuration.host
        self._pool: urllib3.PoolManager = client.rest_client.pool_manager
        self._lock = threading.Lock()

    @classmethod
    def connect(cls, context: str | None = None) -> "Cluster":
        """Read the kubeconfig, or the pod's own configuration. No request is made yet.

        Raises Unreachable if there is no configuration, or its credentials cannot be had. Raises UsageError if it has
        no such context.
        """
        # The official client takes half a second to import, and help and completion do without it.
        from keyturn_cli.kubeconfig import load

        loaded = load(context, CONNECTIONS)
        return cls(loaded.client, loaded.context, loaded.namespace)

    def get(
        self,
        path: str,
        query: Mapping[str, str] | None = None,
        decoder: Decoder[Any] = OBJECT,
        accept: str = JSON,
    ) -> Any:
        """Return one object, or any other reply, with the fields that ``decoder`` keeps."""
        return self._decoded(decoder, path, self._request("GET", path, query, None, accept).data)

    def list(
        self,
        path: str,
        query: Mapping[str, str] | None = None,
        decoder: Decoder[Any] = OBJECT,
        accept: str = JSON,
    ) -> Iterator[Any]:
        """Yield the objects of a list, page by page, with the fields that ``decoder`` keeps.

        Secrets are listed with ``accept=METADATA_LIST``, so that their values never reach this process.
        """
        page_query = {**(query or {}), "limit": str(PAGE_SIZE)}
        while True:
            page = self._decoded(_PAGE, path, self._request("GET", path, page_query, None, accept).data)
            metadata = self._decoded(OBJECT, path, page.get("metadata", b"{}"))
            items = self._decoded(_RAW_ITEMS, path, page.pop("items", b"[]")) or []
            del page
            for each in items:
                yield self._decoded(decoder, path, each)
            if not (next_page := metadata.get("continue")):
                return
            page_query["continue"] = next_page

    def send(self, method: str, path: str, body: Any, content_type: str = JSON) -> Any:
        """Send an object, and return the reply."""
        return self._decoded(OBJECT, path, self._request(method, path, None, body, JSON, content_type).data)

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Any,
        accept: str,
        content_type: str = JSON,
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Accept": accept, "User-Agent": "keyturn"}
        if body is not None:
            headers["Content-Type"] = content_type
        with self._lock, credentials_errors(self.context):  # a token that ends soon is renewed here
            self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        url = self._host + path + (f"?{urlencode(query)}" if query else "")
        content = None if body is None else json.dumps(body).encode()
        try:
            reply = self._pool.request(method, url, body=content, headers=headers, timeout=TIMEOUT, redirect=False)
        except urllib3.exceptions.HTTPError as error:
            raise Unreachable(
                f"the API server of {self.context} does not answer ({_cause(error)}) at {self._host}",
                "check the network, the context (kubectl config get-contexts) and its certificate",
            ) from None
        if reply.status >= 300:
            raise _refusal(self.context, path, reply)
        return reply

    def _decoded(self, decoder: Decoder[Any], path: str, content: Any) -> Any:
        try:
            return decoder.decode(content)
        except (DecodeError, RecursionError):
            raise Unreachable(
                f"the reply of {self._host} to {path} is not one of the API server",
                "a proxy may answer in its place: check HTTPS_PROXY, and the address in the kubeconfig",
            ) from None


def _cause(error: Exception) -> str:
    """Return what went wrong in a word, such as CertificateVerificationError or NewConnectionError."""
    reason = getattr(error, "reason", None)
    return type(reason if isinstance(reason, Exception) else error).__name__


def _refusal(context: str, path: str, reply: urllib3.BaseHTTPResponse) -> CliError:
    try:
        status = OBJECT.decode(reply.data)
    except (DecodeError, RecursionError):
        status = {}
    said = str(status.get("message") or f"it answered {reply.status}")
    text = f"{context}: {said}"
    if reply.status == 401:
        return Unreachable(f"{context}: the API server does not accept the credentials", "log in again")
    if reply.status == 403:
        return Forbidden(text, "ask for this right, or name a namespace in which you have it: -n NAMESPACE")
    if reply.status == 404:
        return NotFound(text)
    if reply.status == 429 or reply.status >= 500:
        return Unreachable(text, "try again")
    return Refused(text)
