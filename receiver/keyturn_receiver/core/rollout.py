"""Rollout decision: whether to restart a consumer, derived from its marks and the Secret's revisions alone.

A mark is an annotation of a workload for one Secret: a digest of the revisions of the keys that its pods read. A mark
on the pod template restarts the workload. A mark on the workload itself does not: it is the baseline of a workload that
Keyturn has never restarted.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from keyturn_receiver.core.consumer import Consumer, Reads, mark_name
from keyturn_receiver.core.revision import digest


@dataclass(frozen=True, slots=True)
class RolloutAnnotation:
    """A mark to write on a workload, and on its pod template as well if ``restart``."""

    name: str
    value: str
    restart: bool


def baseline(consumer: Consumer, secret_name: str, before: Mapping[str, str]) -> RolloutAnnotation | None:
    """The baseline for a consumer without a mark, from the revisions ``before`` the Secret's write; None if it has one.

    Write it before the Secret: after a crash between the Secret's write and its rollouts, the pods would otherwise seem
    to have read the new value (F2 in docs/faults.md).
    """
    name = mark_name(secret_name)
    if name in consumer.marks or name in consumer.baseline:
        return None
    value = _mark_value(consumer.reads.get(secret_name, Reads()), before)
    return RolloutAnnotation(name, value, restart=False) if value else None


def rollout(consumer: Consumer, secret_name: str, after: Mapping[str, str]) -> RolloutAnnotation | None:
    """The mark that restarts a consumer whose pods read a key with a new revision, or None.

    A consumer without any mark gets a baseline instead of a restart.
    """
    name = mark_name(secret_name)
    value = _mark_value(consumer.reads.get(secret_name, Reads()), after)
    current = consumer.marks.get(name) or consumer.baseline.get(name)
    if not value or current == value:
        return None
    return RolloutAnnotation(name, value, restart=current is not None)


def _mark_value(reads: Reads, revisions: Mapping[str, str]) -> str | None:
    # Keys without a revision are not Keyturn's: a pod that reads only those gets no mark.
    keys = revisions.keys() if reads.whole else reads.keys & revisions.keys()
    return digest(revisions, keys) if keys else None
