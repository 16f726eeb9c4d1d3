"""Rollout halts: a failed rollout keeps the other consumers of the Secret from being restarted.

A halt ends by itself when the failed rollout becomes complete. It also ends when the failed workload is deleted, is
scaled to 0, or no longer reads the Secret. People end a halt with the annotation ``keyturn.dev/rollout-resume``. The
value of the annotation names a change of the Secret, and the rollouts for this change continue in spite of failures. So
the annotation has no effect on the next change.
"""

from keyturn_receiver.core.binding import RESUME, BindingSpec, Target
from keyturn_receiver.core.consumer import Consumer
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
    return status_of(
        HALTED,
        f"the restart of {failed.ref.kind} {failed.ref.name} has failed ({reason}), so no other workload is restarted:"
        f" mend it, or go on without it: kubectl annotate secret {target.name} -n {target.namespace} --overwrite"
        f" {RESUME}={change_of(record)}",
    )
