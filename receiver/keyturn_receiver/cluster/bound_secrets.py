"""The picture of the bound Secrets: metadata alone, found by target or by the AWS secret they name. Fed by a watch."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from keyturn_receiver.cluster.api import FIELD_MANAGER, Json
from keyturn_receiver.cluster.index import Index
from keyturn_receiver.core.binding import CURRENT, FILLING, ON_DELETE, SECRET_ID, VERSION_STAGE, Target, is_bound
from keyturn_receiver.core.consumer import ROLLOUT
from keyturn_receiver.core.identity import place, possible_names
from keyturn_receiver.core.revision import RECORD, STATUS, Record, read_record
from keyturn_receiver.core.standing import is_intact

_BINDING = (*FILLING, ON_DELETE, ROLLOUT)
_RECORD = (*RECORD[:-1], STATUS)  # when it was applied is for people


@dataclass(frozen=True, slots=True)
class BoundSecret:
    """What is kept of a bound Secret: metadata, no data.

    ``annotations`` are the binding's; ``intact``: nobody but Keyturn has written what Keyturn owns.
    """

    target: Target
    uid: str
    resource_version: str
    annotations: Mapping[str, str]
    intact: bool
    written: tuple[str | None, ...]

    @property
    def record(self) -> Record:
        """What the Secret says of itself; read anew each time, for it is kept as the text it stands in."""
        texts = zip(_RECORD, self.written, strict=True)
        return read_record({name: text for name, text in texts if text is not None})

    @property
    def secret_id(self) -> str:
        """The AWS secret as the binding's author wrote it."""
        return self.annotations.get(SECRET_ID, "").strip()

    @property
    def stage(self) -> str:
        """The staging label that it is read by."""
        return self.annotations.get(VERSION_STAGE, CURRENT).strip()


def read_bound(obj: Json) -> BoundSecret:
    """Read a bound Secret's metadata as the API server gives it, or as ``BoundSecrets.shrink`` has left it."""
    metadata = obj["metadata"]
    annotations = metadata.get("annotations") or {}
    fields = metadata.get("managedFields") or []
    return BoundSecret(
        target=Target(sys.intern(metadata["namespace"]), metadata["name"]),
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        annotations={name: annotations[name] for name in _BINDING if name in annotations},
        intact=is_intact(FIELD_MANAGER, fields, read_record(annotations)),
        written=tuple(annotations.get(name) for name in _RECORD),
    )


class BoundSecrets:
    """The bound Secrets, by target and by every way to call the AWS secrets they name."""

    def __init__(self, changed: Callable[[Target], None]) -> None:
        self._changed = changed
        self._by_target: dict[Target, BoundSecret] = {}
        self._by_name = Index()

    def __len__(self) -> int:
        return len(self._by_target)

    def get(self, target: Target) -> BoundSecret | None:
        """The bound Secret at ``target``, if there is one."""
        return self._by_target.get(target)

    def all(self) -> list[BoundSecret]:
        """Every bound Secret."""
        return list(self._by_target.values())

    def within(self, namespace: str) -> list[Target]:
        """The targets in one namespace."""
        return [target for target in self._by_target if target.namespace == namespace]

    def naming(self, secret_id: str, name: str | None = None) -> list[Target]:
        """The targets whose binding may name this AWS secret, sorted."""
        found: set[Target] = set()
        for each in {*possible_names(secret_id), *([name] if name else [])}:
            found |= self._by_name.of(each)
        return sorted(target for target in found if self._may_mean(target, secret_id))

    def _may_mean(self, target: Target, secret_id: str) -> bool:
        # The same name in another account or region is another secret.
        ours, theirs = place(self._by_target[target].secret_id), place(secret_id)
        return not ours or not theirs or ours == theirs

    def shrink(self, obj: Json) -> Json:
        metadata = obj["metadata"]
        annotations = metadata.get("annotations") or {}
        kept = {name: annotations[name] for name in (*_BINDING, *_RECORD) if name in annotations}
        identity = {name: metadata.get(name) for name in ("namespace", "name", "uid", "resourceVersion", "labels")}
        ours = [entry for entry in metadata.get("managedFields") or [] if entry.get("manager") == FIELD_MANAGER]
        return {"metadata": {**identity, "annotations": kept, "managedFields": ours}}

    def replace(self, objects: list[Json], namespace: str | None = None) -> None:
        fresh = {Target(obj["metadata"]["namespace"], obj["metadata"]["name"]) for obj in objects}
        known = self._by_target if namespace is None else self.within(namespace)
        for target in set(known) - fresh:
            self._lose(target)
        for obj in objects:
            self.put(obj)

    def put(self, obj: Json) -> None:
        if not is_bound(obj["metadata"]):
            self.remove(obj)
            return
        bound = read_bound(obj)
        known = self._drop(bound.target)
        self._by_target[bound.target] = bound
        for name in _names(bound):
            self._by_name.add(name, bound.target)
        if known is None or known.resource_version != bound.resource_version:
            self._changed(bound.target)

    def remove(self, obj: Json) -> None:
        self._lose(Target(obj["metadata"]["namespace"], obj["metadata"]["name"]))

    def _lose(self, target: Target) -> None:
        if self._drop(target):
            self._changed(target)  # so that whoever keeps something about it forgets it

    def _drop(self, target: Target) -> BoundSecret | None:
        known = self._by_target.pop(target, None)
        for name in _names(known) if known else ():
            self._by_name.discard(name, target)
        return known


def _names(bound: BoundSecret) -> set[str]:
    # The ARNs it was made from count, too: AWS may say "ARN" where the binding says "name".
    arns = (key.partition("#")[0] for key in bound.record.version_ids)
    return {name for secret_id in (bound.secret_id, *arns) for name in possible_names(secret_id)}
