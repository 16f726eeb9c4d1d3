"""Rollout reverts: another writer reverts a pod template before all of its pods are replaced, so pods may keep an old
value.

The status of the Secret reports the revert. The report begins when another writer has reverted the mark (the annotation
that restarts the pods) several times, and a pod was found that may run an older value. It ends when all pods of the
workload run the present value, or when the restart fails for another reason. The status does not change in between,
although each new restart brings the mark back for a while.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from keyturn_receiver.core.consumer import MARK_PREFIX, WorkloadRef
from keyturn_receiver.core.restart_way import EVICT, RESTART
from keyturn_receiver.core.revision import REVERTED, status_of
from keyturn_receiver.core.rollout_schedule import ConsumerState
from keyturn_receiver.core.rollout_switch import ROLLOUT


@dataclass(frozen=True, slots=True)
class RevertCandidate:
    """A consumer whose restart another writer may keep reverting.

    ``in_fight`` is true if the consumer's mark keeps returning to an earlier state. ``has_old_pods`` tells whether the
    last read of the consumer's pods found a pod that may run an older value. It is None if this replica has not read
    the pods since the value changed.
    """

    ref: WorkloadRef
    state: ConsumerState
    in_fight: bool = False
    has_old_pods: bool | None = None

    @property
    def is_reverted(self) -> bool:
        """Whether another writer has reverted the restart, and pods still run an older value, as far as this replica
        knows."""
        return self.state is ConsumerState.DUE and self.in_fight and self.has_old_pods is True

    @property
    def may_be_reverted(self) -> bool:
        """Whether the pods may still run the former value, because the restart was reverted."""
        if self.state is ConsumerState.DUE:
            return self.has_old_pods is not False
        return self.state is ConsumerState.UNFINISHED


def revert_of(ref: WorkloadRef) -> str:
    """Return what the status says about a workload whose restart is reverted. The text is the same on every replica."""
    return status_of(
        REVERTED,
        f"another writer keeps reverting the pod template of {ref.kind} {ref.name} before all of its pods are replaced,"
        " so pods may keep an older value. An Event on the workload names the writer: let it ignore annotations that"
        f" begin with {MARK_PREFIX}, or annotate the workload with {RESTART}: {EVICT} or {ROLLOUT}: disabled",
    )


def revert_notice(candidates: Iterable[RevertCandidate], told: str) -> str:
    """Return the text about reverted restarts for the status of the Secret, or an empty text.

    ``told`` is what the status says about them now. It is returned again while it may still be true. Otherwise several
    reverted workloads would make the status change again and again.
    """
    ordered = sorted(candidates, key=lambda each: each.ref)
    if told and any(each.may_be_reverted and revert_of(each.ref) == told for each in ordered):
        return told
    return next((revert_of(each.ref) for each in ordered if each.is_reverted), "")
