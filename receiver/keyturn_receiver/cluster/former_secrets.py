"""Former Secrets: revisions of Secrets that were deleted, or that lost the record that Keyturn keeps in their
annotations.

A new Secret may have the name of a former Secret. If a key of the new Secret has the same value as before, the key
keeps its old revision. So this key does not cause a restart of consumers.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace

from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.plan import LiveSecret
from keyturn_receiver.core.revision import Record
from keyturn_receiver.resilience.fair_map import FairMap

MAX_FORMER = 500  # the number of Secrets that are remembered
# A Secret with more keys than this is not remembered. If it is deleted and created again, its consumers restart.
MAX_FORMER_KEYS = 32
MAX_VERSIONS = 20  # a Secret that is made from more AWS secrets than this number is not remembered


@dataclass(frozen=True, slots=True)
class _Former:
    """The facts that are remembered about a former Secret. ``used_by`` is the UID of the only Secret that may take over
    the revisions. It is empty until a Secret takes them over."""

    revisions: Mapping[str, str]
    fingerprints: Mapping[str, bytes] = field(repr=False)
    binding_hash: str
    version_keys: frozenset[str]
    used_by: str = ""


class FormerSecrets:
    """Bounded memory of former Secrets. A replica remembers only Secrets that it has read or written itself."""

    def __init__(self) -> None:
        self._former: FairMap[str, Target, _Former] = FairMap(MAX_FORMER)

    def remember(self, target: Target, record: Record, live: LiveSecret | None) -> None:
        """Remember a Secret that is gone or has lost its record. The caller makes sure that only Keyturn has written
        the Secret's content. ``live`` is None if the Secret's values are not known. Such a Secret is not remembered."""
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
        """Return the old revision of each key whose value is the same as in the former Secret of this name.

        ``fingerprints`` are the fingerprints of the present values. ``version_keys`` name the AWS secrets that the
        values were read from.

        An old revision reveals that the key has its old value. Nobody may use this to test guesses of the value. So
        only one Secret gets the old revisions. It gets the same revisions again if its reconcile is retried. The
        binding of this Secret, including the constants, must be the same as that of the former Secret. The Secret must
        not use any other AWS secrets.
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
        """Forget the Secrets of a namespace that was deleted, because a new namespace of the same name may belong to
        somebody else."""
        for target in self._former.of(namespace):
            self._former.pop(namespace, target)
