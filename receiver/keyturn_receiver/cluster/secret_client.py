"""Bound Secrets: read one whole, write it by server-side apply, say on it what is wrong, delete it."""

from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass

from keyturn_receiver.cluster.api import APPLY, FIELD_MANAGER, MERGE_PATCH, METADATA_ONLY, Api, Json, path
from keyturn_receiver.core.binding import Target, is_bound
from keyturn_receiver.core.plan import Fingerprint, LiveSecret
from keyturn_receiver.core.revision import STATUS, Record, read_record, write_record

# The status has an owner of its own: an apply that names no data, by the owner of the data, would take the data away.
STATUS_MANAGER = "keyturn-status"


@dataclass(frozen=True, slots=True)
class FoundSecret:
    """A Secret as the API server has it now, and the annotations it carries; ``bound``: it still asks to be filled."""

    live: LiveSecret
    annotations: Mapping[str, str]
    bound: bool


class SecretClient:
    """Reads and writes of single Secrets. Called for bound ones only."""

    def __init__(self, api: Api, fingerprint: Fingerprint) -> None:
        self._api = api
        self._fingerprint = fingerprint

    async def read(self, target: Target) -> FoundSecret:
        """Read a Secret as it stands. Raises NotFound and the other errors of the API."""
        obj = await self._api.request("GET", _path(target))
        metadata = obj["metadata"]
        annotations = metadata.get("annotations") or {}
        data = obj.get("data") or {}
        live = LiveSecret(
            target=target,
            uid=metadata["uid"],
            resource_version=metadata["resourceVersion"],
            type=obj.get("type", "Opaque"),
            immutable=obj.get("immutable", False),
            record=read_record(annotations),
            fingerprints={key: self._fingerprint(b64decode(value)) for key, value in data.items()},
        )
        return FoundSecret(live, annotations, is_bound(metadata))

    async def read_record(self, target: Target) -> Record:
        """Read what a Secret says of itself, without its data."""
        obj = await self._api.request("GET", _path(target), accept=METADATA_ONLY)
        return read_record(obj["metadata"].get("annotations") or {})

    async def apply(self, live: LiveSecret, record: Record, data: Mapping[str, bytes], applied_at: str) -> str:
        """Write our keys and annotations, if the Secret still is as read; return its new resource version.

        Keys and annotations of others stay. Raises Conflict when it has changed since, or was deleted: an apply that
        names no version would bring a deleted Secret back, and could put an older value over a newer (F5 in
        docs/faults.md).
        """
        body: Json = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": live.target.name,
                "namespace": live.target.namespace,
                "uid": live.uid,
                "resourceVersion": live.resource_version,
                "annotations": write_record(record, applied_at),
            },
            "data": {key: b64encode(value).decode() for key, value in data.items()},
        }
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        written = await self._api.request(
            "PATCH", _path(live.target), query, body, content_type=APPLY, accept=METADATA_ONLY
        )
        return str(written["metadata"]["resourceVersion"])

    async def write_status(self, live: LiveSecret, status: str) -> str:
        """Write the status, if the Secret still is as read; return its new resource version. Raises Conflict."""
        body: Json = {
            "metadata": {
                "uid": live.uid,
                "resourceVersion": live.resource_version,
                "annotations": {STATUS: status},
            }
        }
        query = {"fieldManager": STATUS_MANAGER}
        written = await self._api.request(
            "PATCH", _path(live.target), query, body, content_type=MERGE_PATCH, accept=METADATA_ONLY
        )
        return str(written["metadata"]["resourceVersion"])

    async def delete(self, live: LiveSecret) -> None:
        """Delete the Secret, if it still is as read. Raises Conflict."""
        preconditions = {"uid": live.uid, "resourceVersion": live.resource_version}
        body: Json = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": preconditions}
        await self._api.request("DELETE", _path(live.target), body=body)


def _path(target: Target) -> str:
    return path("v1", "secrets", target.namespace, target.name)
