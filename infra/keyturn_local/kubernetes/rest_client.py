"""Client for frequent calls to an API server. It replaces kubectl, because each start of kubectl takes 0.1 s of CPU
time.

The names of resources, the defaults and the error texts are the same as in kubectl.
"""

import json
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3

from keyturn_local.kubernetes.cluster import KubectlFailed

# With this media type, one reply has the resources of several groups and versions:
# https://kubernetes.io/docs/concepts/overview/kubernetes-api/#aggregated-discovery
_DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
_CREATE = {"fieldManager": "kubectl-create", "fieldValidation": "Strict"}


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource of the API. ``names`` are all its names in kubectl."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool
    names: frozenset[str]

    def path(self, namespace: str, name: str = "") -> str:
        """Return the path of one object, or the path of all objects if ``name`` is empty."""
        root = f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"
        place = f"/namespaces/{namespace or 'default'}" if self.namespaced else ""
        return f"{root}{place}/{self.plural}" + (f"/{name}" if name else "")


class RestClient:
    """Client for the API server at ``url``, with a token. Each method raises KubectlFailed if the API server refuses
    the call."""

    def __init__(self, url: str, ca_file: Path, token: str) -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"}
        context = ssl.create_default_context(cafile=ca_file)
        self._pool = urllib3.PoolManager(maxsize=4, ssl_context=context, retries=False, timeout=180)
        self._resources: list[Resource] = []

    def get(self, kind: str, name: str, namespace: str) -> Any:
        """Read one object."""
        return self._call("GET", self._named(kind).path(namespace, name))

    def list(self, kind: str, namespace: str, selector: str = "") -> list[Any]:
        """Read the objects of a kind in a namespace. ``kind`` may be several kinds, separated by commas."""
        objects = []
        for resource in map(self._named, kind.split(",")):
            reply = self._call("GET", resource.path(namespace), {"labelSelector": selector})
            kinds = {"apiVersion": resource.api_version, "kind": resource.kind}  # list items lack these
            objects += [{**kinds, **each} for each in reply["items"]]
        return objects

    def create(self, objects: Iterable[Any]) -> None:
        """Create objects. If the API server refuses some of them, create the others. Then raise KubectlFailed."""
        refusals = []
        for each in objects:
            try:
                self._call("POST", self._of(each).path(each["metadata"].get("namespace", "")), _CREATE, each)
            except KubectlFailed as refusal:
                refusals.append(str(refusal))
        if refusals:
            raise KubectlFailed("\n".join(refusals))

    def delete(self, objects: Iterable[Any]) -> None:
        """Delete objects. Do not wait until they are gone. An object that does not exist is not an error."""
        for each in objects:
            meta = each["metadata"]
            self._delete(self._of(each).path(meta.get("namespace", ""), meta["name"]))

    def delete_all(self, kind: str, namespace: str) -> None:
        """Delete all objects of one kind in a namespace. Do not wait until they are gone."""
        self._delete(self._named(kind).path(namespace))

    def create_token(self, service_account: str, namespace: str, seconds: int) -> str:
        """Return a new token of a ServiceAccount. The token is valid for ``seconds``."""
        path = self._named("serviceaccount").path(namespace, service_account)
        return str(self._call("POST", f"{path}/token", {}, {"spec": {"expirationSeconds": seconds}})["status"]["token"])

    def _delete(self, path: str) -> None:
        self._call("DELETE", path, {}, {"propagationPolicy": "Background"}, missing_ok=True)

    def _named(self, name: str) -> Resource:
        return self._find(lambda each: name.lower() in each.names, name)

    def _of(self, each: Mapping[str, Any]) -> Resource:
        key = (each["apiVersion"], each["kind"])
        return self._find(lambda resource: (resource.api_version, resource.kind) == key, " ".join(key))

    def _find(self, matches: Callable[[Resource], bool], name: str) -> Resource:
        for attempt in range(2):  # the resource may have been created after the last discovery
            if attempt or not self._resources:
                self._discover()
            for resource in self._resources:
                if matches(resource):
                    return resource
        raise KubectlFailed(f'the server doesn\'t have a resource type "{name}"')

    def _discover(self) -> None:
        self._resources = [
            Resource(
                "/".join(filter(None, [group["metadata"].get("name"), version["version"]])),
                each["responseKind"]["kind"],
                each["resource"],
                each["scope"] == "Namespaced",
                frozenset({each["resource"], each["singularResource"], *each.get("shortNames", [])}),
            )
            for root in ("/api", "/apis")
            for group in self._call("GET", root, accept=_DISCOVERY)["items"]
            for version in group["versions"]
            for each in version["resources"]
        ]

    def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        accept: str = "application/json",
        missing_ok: bool = False,
    ) -> Any:
        headers = {**self._headers, "Accept": accept, "Content-Type": "application/json"}
        text = None if body is None else json.dumps(body)
        reply = self._pool.request(method, f"{self._url}{path}?{urlencode(query or {})}", body=text, headers=headers)
        content = json.loads(reply.data)
        if reply.status >= 400 and not (missing_ok and reply.status == 404):
            raise KubectlFailed(f"Error from server ({content.get('reason')}): {content.get('message')}")
        return content
