"""Client for the API server of one cluster, with the rights of the caller.

The official Python client supplies credentials and connections. Its models are not used, because they take several
times as much CPU time as a decoder that keeps only the needed fields.
"""

import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import urllib3
from msgspec import DecodeError, Raw
from msgspec.json import Decoder

from keyturn_cli.advice import chosen
from keyturn_cli.credentials import credentials_errors
from keyturn_cli.errors import CliError, Forbidden, NotFound, Refused, Unreachable

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
PAGE_SIZE = 500  # objects per request, as in kubectl
CONNECTIONS = 8
TIMEOUT = urllib3.Timeout(connect=5, read=60)  # seconds
WATCH_TIMEOUT = urllib3.Timeout(connect=5, read=3600)  # seconds; the API server ends a watch sooner

OBJECT = Decoder(dict[str, Any])  # keeps all fields
_PAGE = Decoder(dict[str, Raw])
_RAW_ITEMS = Decoder(list[Raw] | None)


def path(group_version: str, resource: str, namespace: str | None = None, name: str | None = None) -> str:
    """Return the URL path of a resource. ``group_version`` is "v1" or "group/version"."""
    root = f"/apis/{group_version}" if "/" in group_version else f"/api/{group_version}"
    scope = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
    return f"{root}{scope}/{resource}" + (f"/{quote(name, safe='')}" if name else "")


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply of any status. ``headers`` have lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class Cluster:
    """One cluster. Its methods can be called from several threads.

    ``context`` is the name of the kubeconfig's context, and ``namespace`` is the namespace of this context. ``in_pod``
    is true if the process runs in a pod, with the pod's rights. If a method's docstring does not name other errors, the
    method raises Unreachable if the API server does not answer, does not accept the credentials, or cannot handle the
    request now (429 or 5xx). It raises Forbidden if the caller does not have a right, NotFound if the object does not
    exist, and Refused for any other refusal.
    """

    def __init__(self, client: "ApiClient", context: str, namespace: str, in_pod: bool = False) -> None:
        self.context = context
        self.in_pod = in_pod
        self.namespace = namespace
        self._client = client
        self._host: str = client.configuration.host
        self._pool: urllib3.PoolManager = client.rest_client.pool_manager
        self._lock = threading.Lock()
        self._dial_lock = threading.Lock()

    @classmethod
    def connect(cls, context: str | None = None) -> "Cluster":
        """Read the kubeconfig, or the pod's own configuration. This method makes no request.

        Raises Unreachable if there is no configuration, or if its credentials cannot be obtained. Raises UsageError if
        the kubeconfig cannot be read, or does not have the context.
        """
        # It takes half a second to import the official client. Help and completion do not need it.
        from keyturn_cli.kubeconfig import IN_POD, load

        loaded = load(context, CONNECTIONS)
        return cls(loaded.client, loaded.context, loaded.namespace, loaded.context == IN_POD)

    def get(
        self,
        path: str,
        query: Mapping[str, str] | None = None,
        decoder: Decoder[Any] = OBJECT,
        accept: str = JSON,
    ) -> Any:
        """Return an object or another JSON reply. It has only the fields that ``decoder`` keeps."""
        return self._decoded(decoder, path, self._request("GET", path, query, None, accept).data)

    def list(
        self,
        path: str,
        query: Mapping[str, str] | None = None,
        decoder: Decoder[Any] = OBJECT,
        accept: str = JSON,
    ) -> Iterator[Any]:
        """Yield the objects of a list, page by page. They have only the fields that ``decoder`` keeps.

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

    def watch(self, path: str, query: Mapping[str, str], decoder: Decoder[Any], accept: str = JSON) -> Iterator[Any]:
        """Yield the events of a watch until the API server ends the watch. The first events are one event per existing
        object."""
        reply = self._request("GET", path, {**query, "watch": "true"}, None, accept, stream=True)
        try:
            rest = b""
            for chunk in reply.stream(1 << 16):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield self._decoded(decoder, path, line)
        except urllib3.exceptions.HTTPError:
            return  # the connection has ended, and the caller starts a new watch
        finally:
            reply.close()

    def send(self, method: str, path: str, body: Any, content_type: str = JSON, accept: str = JSON) -> Any:
        """Send an object, and return the reply.

        A change of a Secret is sent with ``accept=METADATA``, so that no value reaches this process.
        """
        return self._decoded(OBJECT, path, self._request(method, path, None, body, accept, content_type).data)

    def exchange(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Send a request, and return the reply with any status. ``path`` may lead to a pod through the API server's
        proxy.

        Raises only Unreachable: if there is no reply, or if the credentials cannot be obtained.
        """
        reply = self._call(method, path, body, {"Accept": "*/*", **(headers or {})})
        return Reply(reply.status, {name.lower(): value for name, value in reply.headers.items()}, reply.data)

    def dial(self, namespace: str, pod: str, port: int) -> Any:
        """Open a connection to a port of a pod, and return its socket. Raises Refused, also if the API server does not
        answer.

        The client sends a GET for a WebSocket. So the caller needs the right to get pods/portforward and, since
        Kubernetes 1.35, also the right to create pods/portforward.
        https://kubernetes.io/docs/reference/command-line-tools-reference/feature-gates/AuthorizePodWebsocketUpgradeCreatePermission/
        """
        from kubernetes.client import ApiException, CoreV1Api
        from kubernetes.stream import portforward

        call = CoreV1Api(self._client).connect_get_namespaced_pod_portforward
        try:
            with self._dial_lock:  # the client replaces a method of its own during the call
                return portforward(call, pod, namespace, ports=str(port)).socket(port)
        except ApiException as error:
            # The client turns these two exceptions into an ApiException.
            if isinstance(error.__context__, KeyboardInterrupt | SystemExit):
                raise error.__context__ from None
            # In the client's text, the headers and the body of the reply follow the reason.
            reason = str(error.reason).split(" -+-+- ")[0]
            raise Refused(
                f"{self.context}: no port of pod {namespace}/{pod} can be forwarded ({reason})",
                "check that the pod runs, and that you have the right to create and get pods/portforward; with kubectl"
                " on the PATH, create is enough",
            ) from None

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Any,
        accept: str,
        content_type: str = JSON,
        stream: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Accept": accept, **({} if body is None else {"Content-Type": content_type})}
        content = None if body is None else json.dumps(body).encode()
        reply = self._call(method, path + (f"?{urlencode(query)}" if query else ""), content, headers, stream)
        if reply.status >= 300:
            raise _refusal(self.context, path, reply)
        return reply

    def _call(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], stream: bool = False
    ) -> urllib3.BaseHTTPResponse:
        sent = {"User-Agent": "keyturn", **headers}
        timeout = WATCH_TIMEOUT if stream else TIMEOUT
        with self._lock, credentials_errors(self.context):  # this also renews a token that expires soon
            self._client.update_params_for_auth(sent, [], ["BearerToken"], path, method, body)
        try:
            return self._pool.request(
                method,
                self._host + path,
                body=body,
                headers=sent,
                timeout=timeout,
                redirect=False,
                preload_content=not stream,
            )
        except urllib3.exceptions.HTTPError as error:
            raise Unreachable(
                f"the API server of {self.context} does not answer ({_cause(error)}) at {self._host}",
                "check the network, the context (kubectl config get-contexts) and its certificate",
            ) from None

    def _decoded(self, decoder: Decoder[Any], path: str, content: Any) -> Any:
        try:
            return decoder.decode(content)
        except (DecodeError, RecursionError):
            raise Unreachable(
                f"the reply of {self._host} to {path} is not one of the API server",
                "a proxy may answer in its place: check HTTPS_PROXY, and the address in the kubeconfig",
            ) from None


def _cause(error: Exception) -> str:
    """Return the class name of the underlying error, such as CertificateVerificationError or NewConnectionError."""
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
        other = ", or name a namespace in which you have it: -n NAMESPACE" if chosen().takes_namespace else ""
        return Forbidden(text, f"ask for this right{other}")
    if reply.status == 404:
        return NotFound(text)
    if reply.status == 429 or reply.status >= 500:
        return Unreachable(text, "try again")
    return Refused(text)
