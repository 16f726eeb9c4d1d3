"""Bound Secrets: read one whole, and write it by server-side apply."""

from base64 import b64decode, b64encode
from collections.abc import Mapping

from keyturn_receiver.cluster.api import APPLY, FIELD_MANAGER, METADATA_ONLY, Api, Json, path
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.plan import LiveSecret
from keyturn_receiver.core.revision import Record, read_record, write_record


class Secrets:
    """Reads and writes of single Secrets. Called for bound ones only."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def read(self, target: Target) -> tuple[LiveSecret, Mapping[str, object]]:
        """Read a Secret as it stands, and its metadata. Raises NotFound and the other errors of the API."""
        obj = await self._api.request("GET", path("v1", "secrets", target.namespace, target.name))
        metadata = obj["metadata"]
        live = LiveSecret(
            target=target,
            uid=metadata["uid"],
            resource_version=metadata["resourceVersion"],
            type=obj.get("type", "Opaque"),
            immutable=obj.get("immutable", False),
            record=read_record(metadata.get("annotations") or {}),
            data={key: b64decode(value) for key, value in (obj.get("data") or {}).items()},
        )
        return live, metadata

    async def record(self, target: Target) -> Record:
        """Read what a Secret says of itself, without its data."""
        obj = await self._api.request("GET", path("v1", "secrets", target.namespace, target.name), accept=METADATA_ONLY)
        return read_record(obj["metadata"].get("annotations") or {})

    async def apply(self, live: LiveSecret, record: Record, data: Mapping[str, bytes], applied_at: str) -> str:
        """Write our keys and annotations, if the Secret still is as read; return its new resource version.

        Keys and annotations of others stay. Raises Conflict when it has changed since, or was deleted: an apply that
        names no version would bring a deleted Secret back, and could put an older value over a newer (fault F5).
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
        written = await self._api.request(
            "PATCH",
            path("v1", "secrets", live.target.namespace, live.target.name),
            {"fieldManager": FIELD_MANAGER, "force": "true"},
            body,
            content_type=APPLY,
            accept=METADATA_ONLY,
        )
        return str(written["metadata"]["resourceVersion"])
