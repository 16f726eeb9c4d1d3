"""Descriptions of requests to the Kubernetes API. They are for readers who do not know the API's paths."""

from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote

from keyturn_receiver.core.workload_kinds import WORKLOAD_KINDS

_KINDS = {
    "secrets": "Secret",
    "namespaces": "Namespace",
    "events": "Event",
    "serviceaccounts": "ServiceAccount",
    "leases": "Lease",
    **{kind.plural: kind.kind for kind in WORKLOAD_KINDS.values()},
}
_VERBS = {"POST": "creating", "PUT": "writing", "PATCH": "writing", "DELETE": "deleting"}


class ApiPath(NamedTuple):
    """The parts of a path. ``namespace`` is None if the path is a list or an object of the whole cluster. ``name`` and
    ``subresource`` are empty if the path does not have them."""

    namespace: str | None
    resource: str
    name: str
    subresource: str


@lru_cache(maxsize=1024)  # one request asks several times for the parts of its path
def parse_path(path: str) -> ApiPath:
    """Split a path of the Kubernetes API into its parts."""
    parts = [unquote(part) for part in path.strip("/").split("/")]
    parts = parts[2:] if parts[0] == "api" else parts[3:]  # without the group and the version
    namespace = None
    if parts[0] == "namespaces" and len(parts) > 2:
        namespace, parts = parts[1], parts[2:]
    resource, name, subresource = (*parts, "", "")[:3]
    return ApiPath(namespace, resource, name, subresource)


def action(method: str, path: str) -> str:
    """Return what a request does, such as "writing Secret shop/db" for a PATCH of that Secret."""
    namespace, resource, name, subresource = parse_path(path)
    kind = _KINDS.get(resource, resource)
    if not name:
        objects = resource if method == "GET" else kind
        where = f" in namespace {namespace}" if namespace else ""
        return f"{'listing' if method == 'GET' else _VERBS[method]} {objects}{where}"
    of = f"{subresource} of " if subresource else ""
    return f"{_VERBS.get(method, 'reading')} {of}{kind} {f'{namespace}/' if namespace else ''}{name}"
