"""Back-off for consumers whose marks keep returning to earlier states.

A mark is the annotation with which Keyturn restarts a consumer. Without a back-off, Keyturn and a writer that reverts
the mark would write without a pause, and each write may restart pods.

Every replica watches every change of a mark by any writer, so all replicas slow down together. A mark that the workload
has never had, such as the mark of a new rotation, is written at once. A mark that the workload has had before is
written after a delay, which grows each time.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from keyturn_receiver.core.consumer import Consumer, WorkloadRef, mark_names
from keyturn_receiver.core.rollout import RolloutAnnotation
from keyturn_receiver.core.unsettled import without_suffix
from keyturn_receiver.resilience.backoff import Backoff
from keyturn_receiver.resilience.fair_map import FairMap

FREE_REPEATS = 3  # how often a mark may return to an earlier state before writes of it are delayed
MAX_STATES = 8  # states of one mark that are remembered
MAX_VERSIONS = 16  # resource versions of the changes of one mark that are remembered
# Marks whose states are remembered, including marks of workloads that are gone. Each mark takes up to 10 KiB, because
# its values are cut at ``consumer.MAX_MARK`` characters. So all marks take at most 20 MiB. Beyond this number, the
# namespace with the most marks loses its oldest one.
MAX_MARKS = 2_000
FIGHT_BACKOFF = Backoff(base=20.0, cap=300.0, jitter=0)  # seconds between two writes of the same mark
RESET_AFTER = 900.0  # seconds without a change after which the earlier states of a mark are forgotten

_State = tuple[str | None, str | None]  # the mark on the workload and the one on its pod template


@dataclass(slots=True)
class _Fight:
    states: deque[_State] = field(default_factory=lambda: deque(maxlen=MAX_STATES))
    versions: deque[str] = field(default_factory=lambda: deque(maxlen=MAX_VERSIONS))
    repeats: int = 0
    changed_at: float = 0.0
    free_at: float = 0.0  # monotonic time; until then, Keyturn does not write a state that the mark has had before
    removed: bool = False
    restarts: bool = False
    # The mark for which the pods were last read, and whether a pod was older than the value that the mark stands for.
    old_pods: tuple[str, bool] | None = None


@dataclass(frozen=True, slots=True)
class Fight:
    """A fight about a mark. Another writer keeps reverting the mark, so Keyturn writes it more and more slowly from now
    on. ``removed`` tells whether a change has removed the mark. ``restarts`` is false if only the mark on the workload
    itself has changed, which restarts no pods."""

    consumer: Consumer
    mark: str
    removed: bool
    restarts: bool = True


class RolloutFights:
    """Detects fights about marks, and delays Keyturn's writes of these marks. ``now`` returns monotonic seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._fights: FairMap[str, tuple[WorkloadRef, str], _Fight] = FairMap(MAX_MARKS)
        self._handlers: list[Callable[[Fight], None]] = []

    def add_handler(self, on_fight: Callable[[Fight], None]) -> None:
        """Register ``on_fight``, which is called once for each fight."""
        self._handlers.append(on_fight)

    def observe(self, before: Consumer, after: Consumer) -> None:
        """Note a change of a consumer. Any writer may have made the change.

        This replica notes each of its own writes twice: after the write itself, and when the watch shows it. The watch
        may show the write first. Both notes together count as one change.
        """
        names = before.baseline.keys() | before.marks.keys() | after.baseline.keys() | after.marks.keys()
        if before.reads.keys() != after.reads.keys():
            # A consumer has only the marks of Secrets that its pods read. So when the pods begin or stop to read a
            # Secret, the marks of that Secret seem to come or go.
            names &= set(mark_names(before.reads.keys() & after.reads.keys()))
        for name in names:
            earlier, state = _state(before, name), _state(after, name)
            if earlier != state:
                restarts = after.by_time or earlier[1] != state[1]
                self._observe(after, name, _without_suffixes(earlier), _without_suffixes(state), restarts)
                self._note_end(before, name)

    def delay(self, consumer: Consumer, mark: RolloutAnnotation) -> float:
        """Return the seconds to wait before this mark is written."""
        fight = self._fights.get(consumer.ref.namespace, (consumer.ref, mark.name))
        if fight is None or not _is_repeated(fight, mark):
            return 0.0
        return max(0.0, fight.free_at - self._now())

    def is_fought(self, consumer: Consumer, name: str) -> bool:
        """Return whether there is a fight about the mark with this name: it keeps returning to an earlier state."""
        fight = self._fights.get(consumer.ref.namespace, (consumer.ref, name))
        return fight is not None and self._is_on(fight)

    def has_old_pods(self, consumer: Consumer, mark: RolloutAnnotation) -> bool | None:
        """Return whether the last read of the pods showed a pod older than the value that the mark stands for. Return
        None if this is not known."""
        fight = self._fights.get(consumer.ref.namespace, (consumer.ref, mark.name))
        return fight.old_pods[1] if fight and fight.old_pods and fight.old_pods[0] == mark.value else None

    def note_pods(self, consumer: Consumer, mark: RolloutAnnotation) -> None:
        """Note whether the pods have to be restarted by this mark. If so, a pod is older than the value that the mark
        stands for."""
        if fight := self._fights.get(consumer.ref.namespace, (consumer.ref, mark.name)):
            fight.old_pods = (mark.value, mark.restart)

    def keeps_off(self, consumer: Consumer, mark: RolloutAnnotation) -> bool:
        """Return whether a mark that restarts no pods should not be written now, because another writer keeps reverting
        it.

        If so, the next attempt has the same delay as after a write of the mark.
        """
        fight = self._fights.get(consumer.ref.namespace, (consumer.ref, mark.name))
        now = self._now()
        if fight is None or not self._is_on(fight):
            return False
        if not _is_repeated(fight, mark):
            return False
        if now >= fight.free_at:
            fight.repeats += 1
            fight.changed_at, fight.free_at = now, now + FIGHT_BACKOFF.delay(fight.repeats - FREE_REPEATS + 1)
        return True

    def leaves_off(self, consumer: Consumer, mark: RolloutAnnotation) -> bool:
        """Return whether a consumer needs no mark for now. It lacks the mark only because another writer keeps
        reverting it, and the last read of the pods showed none that is older than the value."""
        fight = self._fights.get(consumer.ref.namespace, (consumer.ref, mark.name))
        return fight is not None and self._is_on(fight) and fight.old_pods == (mark.value, False)

    def _note_end(self, before: Consumer, name: str) -> None:
        """Note that no old pod is left, if the rollout for the mark was complete before a change of the consumer."""
        fight, mark = self._fights.get(before.ref.namespace, (before.ref, name)), before.marks.get(name)
        was_complete = before.progress is not None and before.progress.is_complete and not before.hold
        if fight and fight.old_pods and mark and was_complete:
            value, _ = fight.old_pods
            if without_suffix(value) == without_suffix(mark):
                fight.old_pods = (value, False)

    def _is_on(self, fight: _Fight) -> bool:
        return fight.repeats >= FREE_REPEATS and self._now() - fight.changed_at <= RESET_AFTER

    def _observe(self, consumer: Consumer, name: str, earlier: _State, state: _State, restarts: bool) -> None:
        now, key = self._now(), (consumer.ref, name)
        fight = self._fights.get(consumer.ref.namespace, key)
        if fight and consumer.resource_version in fight.versions:
            return
        if fight is None or now - fight.changed_at > RESET_AFTER:
            fight = _Fight(deque([earlier], maxlen=MAX_STATES))
        self._fights.put(consumer.ref.namespace, key, fight)
        fight.versions.append(consumer.resource_version)
        fight.changed_at = now
        fight.restarts |= restarts
        if state not in fight.states:
            fight.states.append(state)
        elif now >= fight.free_at:  # otherwise the change reverts a write that was counted already
            fight.repeats += 1
            fight.removed |= _is_removal(earlier, state)
            if fight.repeats >= FREE_REPEATS:
                fight.free_at = now + FIGHT_BACKOFF.delay(fight.repeats - FREE_REPEATS + 1)
            if fight.repeats == FREE_REPEATS:
                for on_fight in self._handlers:
                    on_fight(Fight(consumer, name, fight.removed, fight.restarts))


def _state(consumer: Consumer, name: str) -> _State:
    return consumer.baseline.get(name), consumer.marks.get(name)


def _without_suffixes(state: _State) -> _State:
    """Return a state in the form in which it is remembered: a value that returns again and again has a new suffix each
    time."""
    settled, on_template = state
    return settled and without_suffix(settled), on_template and without_suffix(on_template)


def _is_repeated(fight: _Fight, mark: RolloutAnnotation) -> bool:
    """Return whether the workload has had this mark before."""
    return any(without_suffix(mark.value) in state for state in fight.states)


def _is_removal(earlier: _State, state: _State) -> bool:
    """Return whether a change removes a mark. A restart does not count: it removes the mark on the workload, but writes
    one on the template."""
    gone = any(had and not has for had, has in zip(earlier, state, strict=True))
    return gone and not (state[1] and state[1] != earlier[1])
