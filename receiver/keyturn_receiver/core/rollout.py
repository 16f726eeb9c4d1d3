"""Whether a consumer is restarted: computed from its own marks and the Secret's revisions, never from what was done.

A workload is marked, per Secret, with a digest of the revisions of the keys its pods read: on its pod template (which
restarts it) and on itself (which does not, and serves as the baseline of one never restarted by Keyturn).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from keyturn_receiver.core.consumer import Consumer, Reads, mark_name
from keyturn_receiver.core.revision import digest


@dataclass(frozen=True, slots=True)
class RolloutAnnotation:
    """One annotation to write on a workload, and on its pod template too if ``restart``."""

    name: str
    value: str
    restart: bool


def baseline(consumer: Consumer, secret_name: str, before: Mapping[str, str]) -> RolloutAnnotation | None:
    """Mark a consumer never seen before with what its pods have read up to now: to be written before the Secret is.

    Else a crash between the Secret and its rollouts would make it look, afterwards, as if its pods had read the new
    value (F2 in docs/faults.md).
    """
    name = mark_name(secret_name)
    if name in consumer.marks or name in consumer.baseline:
        return None
    value = _wanted(consumer.reads.get(secret_name, Reads()), before)
    return RolloutAnnotation(name, value, restart=False) if value else None


def rollout(consumer: Consumer, secret_name: str, after: Mapping[str, str]) -> RolloutAnnotation | None:
    """Restart a consumer whose pods read a key that has a new revision; a consumer without a baseline gets one."""
    name = mark_name(secret_name)
    value = _wanted(consumer.reads.get(secret_name, Reads()), after)
    has = consumer.marks.get(name) or consumer.baseline.get(name)
    if not value or has == value:
        return None
    return RolloutAnnotation(name, value, restart=has is not None)


def _wanted(reads: Reads, revisions: Mapping[str, str]) -> str | None:
    # Keys that have no revision are not Keyturn's: a pod that reads only those is none of its business.
    keys = revisions.keys() if reads.whole else reads.keys & revisions.keys()
    return digest(revisions, keys) if keys else None
