"""Rollout decision: whether to restart a consumer. It depends only on the consumer's marks and the Secret's revisions.

A mark is an annotation on a workload for one Secret. Its value is a digest of the revisions of the keys that the pods
read. A mark on the pod template restarts the workload. A mark on the workload itself does not: it is the baseline of a
workload that Keyturn has never restarted.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from keyturn_receiver.core.consumer import Consumer, Reads, mark_name
from keyturn_receiver.core.revision import digest


@dataclass(frozen=True, slots=True)
class RolloutAnnotation:
    """A mark to write on a workload and, if ``restart``, on its pod template as well."""

    name: str
    value: str
    restart: bool


def baseline(consumer: Consumer, secret_name: str, before: Mapping[str, str]) -> RolloutAnnotation | None:
    """Return the baseline for a consumer that has no mark yet; None if it needs none.

    ``before`` are the revisions before the Secret is written. Write the baseline before the Secret: after a crash
    between the Secret's write and its rollouts, the pods would otherwise seem to have read the new value (F2 in
    docs/faults.md).
    """
    name = mark_name(secret_name)
    if name in consumer.marks or name in consumer.baseline:
        return None
    value = _mark_value(consumer.reads.get(secret_name, Reads()), before)
    return RolloutAnnotation(name, value, restart=False) if value else None


def rollout(consumer: Consumer, secret_name: str, after: Mapping[str, str]) -> RolloutAnnotation | None:
    """Return the mark that restarts a consumer whose pods read a key with a new revision; None if it needs no restart.

    A consumer without any mark gets a baseline instead of a restart.
    """
    name = mark_name(secret_name)
    value = _mark_value(consumer.reads.get(secret_name, Reads()), after)
    current = consumer.marks.get(name) or consumer.baseline.get(name)
    if not value or current == value:
        return None
    return RolloutAnnotation(name, value, restart=current is not None)


def _mark_value(reads: Reads, revisions: Mapping[str, str]) -> str | None:
    # Keyturn does not manage keys without a revision, so a pod that reads only such keys gets no mark.
    keys = revisions.keys() if reads.whole else reads.keys & revisions.keys()
    return digest(revisions, keys) if keys else None
