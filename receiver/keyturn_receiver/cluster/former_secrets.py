"""Former Secrets: revisions of Secrets that were deleted, or lost their record.

A value that returns with the next Secret of the same name keeps its revision, so that no consumer is restarted for it.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace

from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.plan import LiveSecret
from keyturn_receiver.core.revision import Record
from keyturn_receiver.resilience.fair_map import FairMap

MAX_FORMER = 500  # Secrets that are remembered
# The most keys of a Secret that is remembered. The consumers of a larger one restart when a Secret of that name
# returns.
MAX_FORMER_KEYS = 32
MAX_VERSIONS = 20  # the most AWS secrets of a Secret that is remembered


@dataclass(frozen=True, slots=True)
class _Former:
    """What is remembered of a Secret. ``used_by`` is the UID of the one Secret that takes the revisions over. It is
    empty while no Secret has taken them."""

    revisions: Mapping[str, str]
    fingerprints: Mapping[str, bytes] = field(repr=False)
    binding_hash: str
    version_keys: frozenset[str]
    used_by: str = ""


class FormerSecrets:
    """Former Secrets. A replica remembers only what it has read or written itself."""

    def __init__(self) -> None:
        self._former: FairMap[str, Target, _Former] = FairMap(MAX_FORMER)

    def remember(self, target: Target, record: Record, live: LiveSecret | None) -> None:
        """Remember a Secret that nobody but Keyturn has changed. ``live`` is None if its values are not known."""
        if record.was_written:
            self._former.pop(target.namespace, target)  # the entry is about an earlier Secret
        if live is None or len(live.fingerprints) > MAX_FORMER_KEYS or len(record.version_ids) > MAX_VERSIONS:
            return
        if revisions := {key: each for key, each in record.revisions.items() if key in live.fingerprints}:
            former = _Former(revisions, live.fingerprints, record.binding_hash, frozenset(record.version_ids))
            self._former.put(target.namespace, target, former)

    def revisions(
        self, live: LiveSecret, binding_hash: str, version_keys: Set[str], fingerprints: Mapping[str, bytes]
    ) -> Mapping[str, str]:
        """Return the revision of each key that had the same value in the last Secret of this name, before it was
        deleted or lost its record. ``fingerprints`` are the fingerprints of the present values, and ``version_keys``
        name the AWS secrets that they were read from.

        Getting an old revision back reveals that the value is the old one, so nobody may use this to test guesses of
        the value. The revisions go to one Secret only (its retries included), and only if its binding, constants
        included, and its AWS secrets are the same.
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
