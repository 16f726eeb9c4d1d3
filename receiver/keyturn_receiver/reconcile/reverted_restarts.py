"""Judge of reverted restarts: decides what the status of a Secret says about other writers that revert pod templates.

In a fight, another writer keeps reverting a mark (the annotation that restarts a consumer). The decision is derived
from the caches and from the fights that this replica has seen. A replica that has just started has not seen earlier
fights. So only the leader changes the status, and a text that may still be true stays.
"""

import time
from collections.abc import Callable, Iterator, Sequence

from keyturn_receiver.cluster.secret_cache import SecretCache
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.consumer import Consumer, WorkloadRef, mark_name
from keyturn_receiver.core.revision import Record
from keyturn_receiver.core.rollout import rollout
from keyturn_receiver.core.rollout_candidate import may_restart, other_candidate
from keyturn_receiver.core.rollout_revert import RevertCandidate, revert_notice, revert_of
from keyturn_receiver.core.rollout_schedule import INFINITY, ConsumerState
from keyturn_receiver.reconcile.rollout_fights import RolloutFights
from keyturn_receiver.reconcile.rollout_pacer import RolloutPacer, stance


class RevertedRestarts:
    """Judge of reverted restarts. ``notify`` is called with each Secret whose status may have to change. ``is_leader``
    returns whether this replica leads. ``wall`` returns the time in seconds since 1970."""

    def __init__(
        self,
        secrets: SecretCache,
        pacer: RolloutPacer,
        fights: RolloutFights,
        notify: Callable[[Target], None],
        is_leader: Callable[[], bool],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._secrets = secrets
        self._pacer = pacer
        self._fights = fights
        self._notify = notify
        self._is_leader = is_leader
        self._wall = wall

    def notice(self, target: Target, consumers: Sequence[Consumer], record: Record, halt: str) -> str:
        """Return the text about its rollouts that the status of a Secret must contain, or an empty text.

        ``consumers`` are the consumers that may be restarted. ``halt`` is the text about a failed rollout, or empty. It
        takes precedence. If this replica does not lead, the text about reverted restarts stays as it is in ``record``.
        """
        if halt:
            return halt
        if not self._is_leader():
            return record.reverted
        return revert_notice((each for each, _ in self._candidates(target, consumers, record)), record.reverted)

    def look_again_in(self, target: Target, consumers: Sequence[Consumer], record: Record) -> float | None:
        """Return the seconds until a restart that the status calls reverted counts as failed. Return None if no such
        time is known."""
        if not record.reverted or not self._is_leader():
            return None
        now = self._wall()
        ends = (
            end
            for each, end in self._candidates(target, consumers, record)
            if each.state is ConsumerState.UNFINISHED and now < end < INFINITY
        )
        end = min(ends, default=None)
        return None if end is None else end - now

    def on_progress(self, before: Consumer | None, after: Consumer) -> None:
        """If the state of a consumer's rollout has changed, call ``notify`` for each Secret of the consumer whose
        status says that the restart of this consumer is reverted."""
        if before is None or stance(before) != stance(after):
            for name in after.reads:
                self.on_unread(after.ref, Target(after.ref.namespace, name))

    def on_unread(self, ref: WorkloadRef, target: Target) -> None:
        """Call ``notify`` for a Secret if its status says that the restart of this workload is reverted."""
        bound = self._secrets.get(target)
        if bound and _is_told(bound.record.reverted, ref):
            self._notify(target)

    def on_started_leading(self) -> None:
        """Call ``notify`` for each Secret whose status says that a restart is reverted. This may no longer be true, and
        the previous leader may have missed that."""
        for bound in self._secrets.all():
            if bound.record.reverted:
                self._notify(bound.target)

    def _candidates(
        self, target: Target, consumers: Sequence[Consumer], record: Record
    ) -> Iterator[tuple[RevertCandidate, float]]:
        """Yield each consumer whose restart may be reverted, with the time at which its rollout fails, in seconds since
        1970."""
        name, told, now = mark_name(target.name), record.reverted, self._wall()
        suspects = (
            consumer for consumer in consumers if self._fights.is_fought(consumer, name) or _is_told(told, consumer.ref)
        )
        for consumer in map(self._pacer.latest, suspects):
            mark = rollout(consumer, target.name, record)
            if consumer.evicts:  # evictions write no template
                continue
            if mark is None:
                other = other_candidate(consumer, target.name, record, now)
                yield RevertCandidate(consumer.ref, other.state), other.fails_at
            elif may_restart(mark):
                fought, old = self._fights.is_fought(consumer, name), self._fights.has_old_pods(consumer, mark)
                yield RevertCandidate(consumer.ref, ConsumerState.DUE, fought, old), INFINITY


def _is_told(told: str, ref: WorkloadRef) -> bool:
    """Return whether ``told``, what the status says about reverted restarts, is about this workload."""
    return bool(told) and told == revert_of(ref)
