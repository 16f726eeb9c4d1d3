"""Client for single bound Secrets. It reads, applies and deletes a Secret, and writes the status of a Secret."""

from base64 import b64decode, b64encode
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from keyturn_receiver.cluster.api import APPLY, MERGE_PATCH, METADATA_ONLY, Api, Json, path
from keyturn_receiver.cluster.history_memo import HistoryMemo
from keyturn_receiver.core.binding import BindingSpec, Target, is_bound, read_spec
from keyturn_receiver.core.field_owners import FIELD_MANAGER, STATUS_MANAGER, managed_fields
from keyturn_receiver.core.history import HISTORY, kept_history
from keyturn_receiver.core.integrity import holders, integrity
from keyturn_receiver.core.plan import Fingerprint, LiveSecret
from keyturn_receiver.core.revision import (
    RECONCILED,
    RECORD_HASH,
    STATE,
    STATUS,
    KeyedHash,
    Record,
    read_record,
    record_hash,
    state_of,
    write_record,
)
from keyturn_receiver.core.vocabulary import secret_faults
from keyturn_receiver.core.write_times import CHANGED_AT, resolve
from keyturn_receiver.errors import Conflict
from keyturn_receiver.resilience.time_slice import TimeSlice


@dataclass(frozen=True, slots=True)
class FoundSecret:
    """A Secret as the API server currently has it, with its binding. ``bound`` is true if the Secret has the binding
    label and is not a copy."""

    live: LiveSecret
    spec: BindingSpec
    bound: bool


class SecretClient:
    """Client that reads and writes single bound Secrets.

    ``fingerprint`` makes a digest of each value that is read. ``keyed`` makes the hashes that are written. ``now``
    returns the time in UTC. This time is written on the Secret for people. No decision depends on it.
    """

    def __init__(self, api: Api, fingerprint: Fingerprint, keyed: KeyedHash, now: Callable[[], datetime]) -> None:
        self._api = api
        self.histories = HistoryMemo()
        self.now = now
        self.fingerprint = fingerprint
        self.keyed = keyed

    async def read(self, target: Target) -> FoundSecret:
        """Read a whole Secret. Raises NotFound, or another error of the API client."""
        obj = await self._api.request("GET", _path(target))
        metadata = obj["metadata"]
        annotations = own_annotations(metadata)
        data = obj.get("data") or {}
        record = read_record(annotations, state_label(metadata))
        record = replace(record, other_keys=data.keys() - record.revisions.keys())
        live = LiveSecret(
            target=target,
            uid=metadata["uid"],
            resource_version=metadata["resourceVersion"],
            type=obj.get("type", "Opaque"),
            immutable=obj.get("immutable", False),
            record=record,
            fingerprints=await self._fingerprints(data),
            integrity=integrity(self.keyed, FIELD_MANAGER, metadata, data, record),
            holders=holders(FIELD_MANAGER, managed_fields(metadata), data),
        )
        self.histories.keep(live, live.resource_version, kept_history(annotations.get(HISTORY)))
        return FoundSecret(live, read_spec(annotations, secret_faults(metadata)), is_bound(metadata))

    async def _fingerprints(self, data: Mapping[str, str]) -> dict[str, bytes]:
        fingerprints: dict[str, bytes] = {}
        time_slice = TimeSlice()
        for key, value in data.items():
            fingerprints[key] = self.fingerprint(b64decode(value))
            await time_slice.pause_if_over()
        return fingerprints

    async def read_record(self, target: Target) -> Record:
        """Read the record that Keyturn keeps on a Secret, without the Secret's data. So ``Record.other_keys`` is None.
        Raises the same errors as ``read``."""
        obj = await self._api.request("GET", _path(target), accept=METADATA_ONLY)
        return read_record(own_annotations(obj["metadata"]), state_label(obj["metadata"]))

    async def read_values(self, live: LiveSecret, keys: Collection[str]) -> dict[str, bytes]:
        """Read the present values of ``keys``. A write has to repeat these values, because otherwise the write would
        remove the keys.

        Raises Conflict if the Secret has changed since it was read, and the same errors as ``read``.
        """
        if not keys:
            return {}
        obj = await self._api.request("GET", _path(live.target))
        data = obj.get("data") or {}
        _check_unchanged(live, obj["metadata"])
        return {key: b64decode(data[key]) for key in keys if key in data}

    async def read_history(self, live: LiveSecret) -> str:
        """Return the annotation ``keyturn.dev/history`` in the form that a write has to repeat (``kept_history``).

        The Secret is read only if the memo does not have the history of this version. Raises Conflict if the Secret has
        changed since it was read, and the same errors as ``read``.
        """
        history = self.histories.get(live)
        if history is None:
            metadata = (await self._api.request("GET", _path(live.target), accept=METADATA_ONLY))["metadata"]
            _check_unchanged(live, metadata)
            history = kept_history((metadata.get("annotations") or {}).get(HISTORY))
        return history

    async def apply(self, live: LiveSecret, record: Record, data: Mapping[str, bytes], history: str = "") -> str:
        """Write Keyturn's keys and annotations by server-side apply. Return the Secret's new resource version.

        ``history`` is the annotation ``keyturn.dev/history``. The API server removes this annotation if the apply
        leaves it out.

        Keys and annotations of other writers stay unchanged. Raises Conflict if the Secret was changed or deleted after
        it was read. An apply without a resource version would create a deleted Secret again, and could overwrite a
        newer value with an older value (F5 in docs/faults.md).
        """
        annotations = write_record(record, self.now().strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
        annotations[RECORD_HASH] = record_hash(self.keyed, live.uid, annotations)
        if history:
            annotations[HISTORY] = history
        body: Json = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": live.target.name,
                "namespace": live.target.namespace,
                "uid": live.uid,
                "resourceVersion": live.resource_version,
                "annotations": annotations,
                "labels": {STATE: state_of(record.status)},
            },
            "data": {key: b64encode(value).decode() for key, value in data.items()},
        }
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        written = await self._api.request(
            "PATCH", _path(live.target), query, body, content_type=APPLY, accept=METADATA_ONLY
        )
        resource_version = str(written["metadata"]["resourceVersion"])
        self.histories.keep(live, resource_version, history)
        return resource_version

    async def write_status(self, live: LiveSecret, status: str, reconciled: str = "") -> str:
        """Write the status of a Secret and its label ``keyturn.dev/state``, and return the Secret's new resource
        version.

        ``reconciled`` is the value of the annotation ``keyturn.dev/reconcile`` to which this reconcile is the answer,
        or an empty text. Raises Conflict if the Secret has changed since it was read.
        """
        body: Json = {
            "metadata": {
                "uid": live.uid,
                "resourceVersion": live.resource_version,
                "annotations": {STATUS: status, **({RECONCILED: reconciled} if reconciled else {})},
                "labels": {STATE: state_of(status)},
            }
        }
        return await self._patch(live.target, body)

    async def release(self, target: Target, uid: str, resource_version: str, status: str) -> None:
        """Write the status of a Secret that is no longer bound, and remove the label ``keyturn.dev/state``.

        Raises Conflict if the Secret has changed since it was last seen, NotFound if it is gone, or another error of
        the API client.
        """
        metadata: Json = {
            "uid": uid,
            "resourceVersion": resource_version,
            "annotations": {STATUS: status},
            "labels": {STATE: None},
        }
        await self._patch(target, {"metadata": metadata})

    async def _patch(self, target: Target, body: Json) -> str:
        query = {"fieldManager": STATUS_MANAGER}
        written = await self._api.request(
            "PATCH", _path(target), query, body, content_type=MERGE_PATCH, accept=METADATA_ONLY
        )
        return str(written["metadata"]["resourceVersion"])

    async def delete(self, live: LiveSecret) -> None:
        """Delete a Secret. Raises Conflict if it has changed since it was read."""
        preconditions = {"uid": live.uid, "resourceVersion": live.resource_version}
        body: Json = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": preconditions}
        await self._api.request("DELETE", _path(live.target), body=body)


def _check_unchanged(live: LiveSecret, metadata: Json) -> None:
    if (metadata["uid"], metadata["resourceVersion"]) != (live.uid, live.resource_version):
        raise Conflict(f"Secret {live.target} has changed: reading again")


def own_annotations(metadata: Json) -> dict[str, str]:
    """Return the annotations of a Secret. The annotation with the times of changes is left out if it is too long. If it
    leaves out the time of Keyturn's last write, this time is taken from the managed fields
    (``write_times.resolve``)."""
    annotations = metadata.get("annotations") or {}
    changed_at = resolve(annotations.get(CHANGED_AT), FIELD_MANAGER, managed_fields(metadata))
    others = {name: text for name, text in annotations.items() if name != CHANGED_AT}
    return others if changed_at is None else {**others, CHANGED_AT: changed_at}


def state_label(metadata: Json) -> str:
    """Return the value of a Secret's label ``keyturn.dev/state``, or an empty text if the Secret has no such label."""
    return str((metadata.get("labels") or {}).get(STATE, ""))


def _path(target: Target) -> str:
    return path("v1", "secrets", target.namespace, target.name)
