"""Rollout halts: a failed rollout keeps the other consumers of the Secret from being restarted.

A halt ends by itself when the failed rollout becomes complete. It also ends when the failed workload is deleted, is
scaled to 0, or no longer reads the Secret. Somebody who rolls the failed workload back or pauses it has not mended it,
so the halt stays. People end a halt with the annotation ``keyturn.dev/rollout-resume``. The value of the annotation
names a change of the Secret, and the rollouts for this change continue in spite of failures. So the annotation has no
effect on the next change.
"""

from keyturn_receiver.core.binding import RESUME, BindingSpec, Target
from keyturn_receiver.core.consumer import Consumer, WorkloadRef
from keyturn_receiver.core.revision import HALTED, Record, status_of

_LENGTH = 10  # characters of a digest that name a change


def change_of(record: Record) -> str:
    """Return the name of the last change of a Secret."""
    return record.digest[:_LENGTH]


def is_resumed(spec: BindingSpec, record: Record) -> bool:
    """Return whether somebody has asked to continue the rollouts for the last change in spite of failures."""
    return spec.resume.strip() == change_of(record)


def halt_of(failed: Consumer, target: Target, record: Record) -> str:
    """Return the status of a Secret with a halt. The text is the same on every replica, and does not change during the
    halt."""
    reason = failed.progress.reason if failed.progress and failed.progress.reason else "its deadline is over"
    begin, end = _around_reason(failed.ref, target, record)
    return status_of(HALTED, f"{begin}{reason}{end}")


def is_halt_of(halt: str, ref: WorkloadRef, target: Target, record: Record) -> bool:
    """Return whether ``halt``, a text that ``halt_of`` has made, names this workload and the last change of the
    Secret."""
    begin, end = _around_reason(ref, target, record)
    return halt.startswith(status_of(HALTED, begin)) and halt.endswith(end)


def _around_reason(ref: WorkloadRef, target: Target, record: Record) -> tuple[str, str]:
    """Return the text about a halt before and after the reason for which the rollout has failed."""
    return (
        f"the restart of {ref.kind} {ref.name} has failed (",
        "), so no other workload is restarted: mend it, or go on without it: kubectl annotate secret"
        f" {target.name} -n {target.namespace} --overwrite {RESUME}={change_of(record)}",
    )
