"""The picture of the bound Secrets: metadata alone, found by target or by the AWS secret they name. Fed by a watch."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from keyturn_receiver.cluster.api import FIELD_MANAGER, Json
from keyturn_receiver.cluster.index import Index
from keyturn_receiver.core.arn import account_scope, candidate_names
from keyturn_receiver.core.binding import (
    CURRENT,
    FILLING,
    ON_DELETE,
    SECRET_ID,
    SERVICE_ACCOUNT,
    VERSION_STAGE,
    Target,
    is_bound,
)
from keyturn_receiver.core.consumer import ROLLOUT
from keyturn_receiver.core.revision import RECORD, STATUS, Record, read_record, split_version_key
from keyturn_receiver.core.sync_status import is_solely_managed

_BINDING = (*FILLING, ON_DELETE, ROLLOUT)
_RECORD = (*RECORD[:-1], STATUS)  # when it was applied is for people


@dataclass(frozen=True, slots=True)
class BoundSecret:
    """What is kept of a bound Secret: metadata, no data.

    ``annotations`` are the binding's; ``names`` those of AWS secrets that it may mean; ``intact``: nobody but Keyturn
    has written what Keyturn owns; ``seen``: monotonic seconds at which this replica saw it so.
    """

    target: Target
    uid: str
    resource_version: str
    annotations: Mapping[str, str]
    names: tuple[str, ...]
    intact: bool
    written: tuple[str | None, ...]
    seen: float

    @property
    def record(self) -> Record:
        """What the Secret says of itself. It is kept as the text it stands in, which is smaller."""
        return _record(self.written)

    @property
    def secret_id(self) -> str:
        """The AWS secret as the binding's author wrote it."""
        return self.annotations.get(SECRET_ID, "").strip()

    @property
    def service_account(self) -> str:
        """The ServiceAccount of its namespace whose AWS role reads; empty for the receiver's own role."""
        return self.annotations.get(SERVICE_ACCOUNT, "").strip()

    @property
    def stage(self) -> str:
        """The staging label that it is read by."""
        return self.annotations.get(VERSION_STAGE, CURRENT).strip()


def read_bound(metadata: Json) -> BoundSecret:
    """Read a bound Secret's metadata as the API server gives it."""
    annotations = metadata.get("annotations") or {}
    written = tuple(annotations.get(name) for name in _RECORD)
    record = _record(written)
    # The ARNs it was made from count, too: AWS may say "ARN" where the binding says "name".
    arns = (split_version_key(key)[0] for key in record.version_ids)
    called = (annotations.get(SECRET_ID, "").strip(), *arns)
    return BoundSecret(
        target=Target(sys.intern(metadata["namespace"]), metadata["name"]),
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        annotations={name: annotations[name] for name in _BINDING if name in annotations},
        names=tuple(dict.fromkeys(name for each in called for name in candidate_names(each))),
        intact=is_solely_managed(FIELD_MANAGER, metadata.get("managedFields") or [], record),
        written=written,
        seen=time.monotonic(),
    )


@lru_cache(maxsize=1024)  # the same one is asked for several times in a row, and then not for long
def _record(written: tuple[str | None, ...]) -> Record:
    texts = zip(_RECORD, written, strict=True)
    return read_record({name: text for name, text in texts if text is not None})


class SecretCache:
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

    def in_namespace(self, namespace: str) -> list[Target]:
        """The targets in one namespace."""
        return [target for target in self._by_target if target.namespace == namespace]

    def by_secret_id(self, secret_id: str, name: str | None = None) -> list[Target]:
        """The targets whose binding may name this AWS secret, sorted."""
        found: set[Target] = set()
        for each in {*candidate_names(secret_id), *([name] if name else [])}:
            found |= self._by_name.of(each)
        return sorted(target for target in found if self._may_mean(target, secret_id))

    def _may_mean(self, target: Target, secret_id: str) -> bool:
        # The same name in another account or region is another secret.
        ours, theirs = account_scope(self._by_target[target].secret_id), account_scope(secret_id)
        return not ours or not theirs or ours == theirs

    def transform(self, obj: Json) -> BoundSecret | Target:
        """Give what is kept of a bound Secret; of one that is not bound any more, its place."""
        metadata = obj["metadata"]
        return read_bound(metadata) if is_bound(metadata) else Target(metadata["namespace"], metadata["name"])

    def replace(self, everything: Sequence[BoundSecret | Target], namespace: str | None = None) -> None:
        fresh = {each.target for each in everything if isinstance(each, BoundSecret)}
        known = self._by_target if namespace is None else self.in_namespace(namespace)
        for target in set(known) - fresh:
            self._delete_and_notify(target)
        for each in everything:
            self.update(each)

    def update(self, kept: BoundSecret | Target) -> None:
        if isinstance(kept, Target):
            self._delete_and_notify(kept)
            return
        known = self._by_target.get(kept.target)
        if known and (known.uid, known.resource_version) == (kept.uid, kept.resource_version):
            return  # it was seen so before, and that counts
        self._drop(kept.target)
        self._by_target[kept.target] = kept
        for name in kept.names:
            self._by_name.add(name, kept.target)
        self._changed(kept.target)

    def delete(self, obj: Json) -> None:
        self._delete_and_notify(Target(obj["metadata"]["namespace"], obj["metadata"]["name"]))

    def _delete_and_notify(self, target: Target) -> None:
        if self._drop(target):
            self._changed(target)  # so that whoever keeps something about it forgets it

    def _drop(self, target: Target) -> BoundSecret | None:
        known = self._by_target.pop(target, None)
        for name in known.names if known else ():
            self._by_name.discard(name, target)
        return known
