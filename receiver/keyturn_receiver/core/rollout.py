"""Rollout decision: whether to restart a consumer. It depends only on the consumer's marks and the Secret's revisions.

A mark is an annotation on a workload that stands for one Secret. Its value is a digest of the revisions of the keys
that the pods read. Writing a mark on the pod template restarts the pods. Writing one on the workload itself does not:
such a mark is the baseline of a workload that Keyturn has never restarted.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from keyturn_receiver.core.consumer import Consumer, Reads, mark_name
from keyturn_receiver.core.revision import digest


@dataclass(frozen=True, slots=True)
class RolloutAnnotation:
    """A mark to write on a workload, and also on its pod template if ``restart`` is true."""

    name: str
    value: str
    restart: bool


def baseline(consumer: Consumer, secret_name: str, before: Mapping[str, str]) -> RolloutAnnotation | None:
    """Return the baseline for a consumer that has no mark yet, or None if the consumer needs no baseline.

    ``before`` has the revisions before the Secret is written. The baseline has to be written before the Secret.
    Otherwise, if the receiver crashed between the write of the Secret and the rollouts, the pods would seem to have
    read the new value already (F2 in docs/faults.md).
    """
    name = mark_name(secret_name)
    if name in consumer.marks or name in consumer.baseline:
        return None
    value = _mark_value(consumer.reads.get(secret_name, Reads()), before)
    return RolloutAnnotation(name, value, restart=False) if value else None


def rollout(consumer: Consumer, secret_name: str, after: Mapping[str, str]) -> RolloutAnnotation | None:
    """Return the mark that restarts a consumer whose pods read a key with a new revision, or None if it is up to date.

    A consumer that has no mark at all gets a baseline instead of a restart.
    """
    name = mark_name(secret_name)
    value = _mark_value(consumer.reads.get(secret_name, Reads()), after)
    current = consumer.marks.get(name) or consumer.baseline.get(name)
    if not value or current == value:
        return None
    return RolloutAnnotation(name, value, restart=current is not None)


def _mark_value(reads: Reads, revisions: Mapping[str, str]) -> str | None:
    # A key without a revision is not managed by Keyturn. A pod that reads only such keys gets no mark.
    keys = revisions.keys() if reads.whole else reads.keys & revisions.keys()
    return digest(revisions, keys) if keys else None
