"""The picture of the bound Secrets: metadata alone, found by target or by the AWS secret they name. Fed by a watch."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from keyturn_receiver.cluster.api import FIELD_MANAGER, Json
from keyturn_receiver.cluster.change import Change
from keyturn_receiver.core.binding import DATA, SECRET_ID, VERSION_STAGE, Target, is_bound
from keyturn_receiver.core.consumer import ROLLOUT
from keyturn_receiver.core.identity import aliases
from keyturn_receiver.core.revision import APPLIED_AT, Record, read_record

_BINDING = (SECRET_ID, DATA, VERSION_STAGE, ROLLOUT)


@dataclass(frozen=True, slots=True)
class BoundSecret:
    """What is kept of a bound Secret: metadata, no data."""

    target: Target
    uid: str
    resource_version: str
    annotations: Mapping[str, str]
    record: Record


def read_bound(obj: Json) -> BoundSecret:
    """Read a bound Secret's metadata as the API server gives it."""
    metadata = obj["metadata"]
    annotations = metadata.get("annotations") or {}
    return BoundSecret(
        target=Target(metadata["namespace"], metadata["name"]),
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        annotations={name: annotations[name] for name in _BINDING if name in annotations},
        record=read_record(annotations),
    )


class BoundSecrets:
    """The bound Secrets, by target and by every way to call the AWS secrets they name."""

    def __init__(self, changed: Callable[[Target, Change], None]) -> None:
        self._changed = changed
        self._by_target: dict[Target, BoundSecret] = {}
        self._by_alias: dict[str, set[Target]] = defaultdict(set)

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
        for alias in aliases(secret_id, name):
            found |= self._by_alias.get(alias, set())
        return sorted(found)

    def shrink(self, obj: Json) -> Json:
        return {"metadata": {**obj["metadata"], "managedFields": None}}

    def replace(self, objects: list[Json]) -> None:
        fresh = {read_bound(obj).target for obj in objects}
        for target in self._by_target.keys() - fresh:
            self._lose(target)
        for obj in objects:
            bound, known = self._put(obj)
            if known is None or known.resource_version != bound.resource_version:
                self._changed(bound.target, Change.SECRET)

    def put(self, obj: Json) -> None:
        if not is_bound(obj["metadata"]):
            self.remove(obj)
            return
        bound, known = self._put(obj)
        is_ours = known and known.record != bound.record and _is_ours(obj["metadata"])
        if is_ours and known and known.annotations == bound.annotations:
            self._changed(bound.target, Change.CONSUMER)  # AWS has nothing new to tell
        elif known is None or known.resource_version != bound.resource_version:
            self._changed(bound.target, Change.SECRET)

    def remove(self, obj: Json) -> None:
        self._lose(Target(obj["metadata"]["namespace"], obj["metadata"]["name"]))

    def _lose(self, target: Target) -> None:
        self._drop(target)
        self._changed(target, Change.SECRET)  # so that whoever keeps something about it forgets it

    def _put(self, obj: Json) -> tuple[BoundSecret, BoundSecret | None]:
        """Take one object; return it with what stood in its place."""
        bound = read_bound(obj)
        known = self._by_target.get(bound.target)
        self._drop(bound.target)
        self._by_target[bound.target] = bound
        for alias in _names(bound):
            self._by_alias[alias].add(bound.target)
        return bound, known

    def _drop(self, target: Target) -> None:
        known = self._by_target.pop(target, None)
        for alias in _names(known) if known else ():
            self._by_alias[alias].discard(target)
            if not self._by_alias[alias]:
                del self._by_alias[alias]


def _is_ours(metadata: Json) -> bool:
    """Tell whether Keyturn, this replica or another, has written what the Secret says of itself.

    Who restores an old copy of a Secret by hand restores its annotations, too, but then owns them.
    https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management
    """
    return any(
        entry.get("manager") == FIELD_MANAGER
        and f"f:{APPLIED_AT}" in entry.get("fieldsV1", {}).get("f:metadata", {}).get("f:annotations", {})
        for entry in metadata.get("managedFields") or []
    )


def _names(bound: BoundSecret) -> frozenset[str]:
    # The ARNs it was made from count, too: AWS may say "ARN" where the binding says "name".
    arns = {key.partition("#")[0] for key in bound.record.version_ids}
    return aliases(bound.annotations.get(SECRET_ID, "").strip()).union(*(aliases(arn) for arn in arns))
