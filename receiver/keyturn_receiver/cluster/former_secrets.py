"""Former Secrets: revisions of Secrets that were deleted, or lost their record.

A value that returns with the next Secret of the same name keeps its revision, so that nobody is restarted for it.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace

from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.plan import LiveSecret
from keyturn_receiver.core.revision import Record
from keyturn_receiver.resilience.fair_map import FairMap

MAX_FORMER = 500  # Secrets that are remembered
MAX_FORMER_KEYS = 32  # keys of such a Secret; if it had more, nothing is remembered, and its consumers are restarted
MAX_VERSIONS = 20  # AWS secrets of such a Secret


@dataclass(frozen=True, slots=True)
class _Former:
    """What is remembered of a Secret. ``used_by`` is the UID of the one Secret that takes its revisions over. It is
    empty until there is one."""

    revisions: Mapping[str, str]
    fingerprints: Mapping[str, bytes] = field(repr=False)
    binding_hash: str
    version_keys: frozenset[str]
    used_by: str = ""


class FormerSecrets:
    """Former Secrets. Only what this replica has read or written is known of them."""

    def __init__(self) -> None:
        self._former: FairMap[str, Target, _Former] = FairMap(MAX_FORMER)

    def remember(self, target: Target, record: Record, live: LiveSecret | None) -> None:
        """Remember a Secret that nobody but Keyturn has changed. ``live`` is None if its values are not known."""
        if record.was_written:
            self._former.pop(target.namespace, target)  # what it holds is of an earlier Secret
        if live is None or len(live.fingerprints) > MAX_FORMER_KEYS or len(record.version_ids) > MAX_VERSIONS:
            return
        if revisions := {key: each for key, each in record.revisions.items() if key in live.fingerprints}:
            former = _Former(revisions, live.fingerprints, record.binding_hash, frozenset(record.version_ids))
            self._former.put(target.namespace, target, former)

    def revisions(
        self, live: LiveSecret, binding_hash: str, version_keys: Set[str], fingerprints: Mapping[str, bytes]
    ) -> Mapping[str, str]:
        """Return the revision of each key that had the same value in the last Secret of this name, before it was
        deleted or lost its record. ``fingerprints`` are those of the present values, and ``version_keys`` name the AWS
        secrets that they were read from.

        A revision shows that a value is the former one, so it must not confirm a guess. Only one Secret gets revisions,
        however often it is tried again, and only if it has the same binding, constants included, and the same AWS
        secrets.
        """
        target = live.target
        former = self._former.pop(target.namespace, target)
        if (
            former is None
            or former.used_by not in ("", live.uid)
            or former.binding_hash != binding_hash
            or not version_keys <= former.version_keys
        ):
            return {}
        self._former.put(target.namespace, target, replace(former, used_by=live.uid))
        return {
            key: former.revisions[key]
            for key, fingerprint in fingerprints.items()
            if key in former.revisions and former.fingerprints.get(key) == fingerprint
        }

    def forget(self, namespace: str) -> None:
        """Forget the Secrets of a namespace that has ended, because a namespace of the same name may belong to somebody
        else."""
        for target in self._former.of(namespace):
            self._former.pop(namespace, target)
