"""Ring buffer of the last rotations. The number of rotations is limited, and so is the number of their consumers'
rollouts."""

from collections import OrderedDict
from collections.abc import Iterator

from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.consumer import WorkloadRef
from keyturn_receiver.status.rotation import MAX_SECRETS, ConsumerRollout, RolloutLeg, Rotation, SecretFill

MAX_ROTATIONS = 200
MAX_ALL_ROLLOUTS = 5000  # at most this many rollouts of all rotations in the ring


class RotationRing:
    """Ring buffer of rotations. ``now`` in its methods is the time in seconds since 1970."""

    def __init__(self) -> None:
        self._rotations: OrderedDict[str, Rotation] = OrderedDict()  # by id, oldest first
        self._latest: dict[Target, Rotation] = {}  # by Secret: its newest rotation in the ring
        self._rollouts = 0  # the number of rollouts of all rotations in the ring
        self.total = 0  # the number of rotations since the start of the process

    def get(self, rotation_id: str) -> Rotation | None:
        """Return the rotation with an id, or None if the ring does not have it."""
        return self._rotations.get(rotation_id)

    def newest_first(self) -> Iterator[Rotation]:
        """Yield the rotations, newest first."""
        return reversed(self._rotations.values())

    def of(self, target: Target) -> list[Rotation]:
        """Return the rotations of one Secret, newest first."""
        return [rotation for rotation in self.newest_first() if target in rotation.fills]

    def latest(self, target: Target) -> Rotation | None:
        """Return the newest rotation of one Secret, or None if the ring has none."""
        return self._latest.get(target)

    @property
    def has_fills(self) -> bool:
        """Whether a rotation in the ring concerns a Secret."""
        return bool(self._latest)

    def add(self, rotation: Rotation) -> None:
        """Add a rotation. If the ring is full, the oldest rotation is dropped."""
        self.total += 1
        self._rotations[rotation.id] = rotation
        if len(self._rotations) > MAX_ROTATIONS:
            self._forget_oldest(rotation)

    def fill(self, rotation: Rotation, target: Target, now: float) -> SecretFill | None:
        """Return the effect of a rotation on a Secret. If it is new, add it. Return None if there is no room for it."""
        fill = rotation.fills.get(target)
        if fill is None and len(rotation.fills) < MAX_SECRETS:
            fill = rotation.fills[target] = SecretFill(target, now)
            if (before := self._latest.get(target)) and before is not rotation:
                for each in before.fills[target].consumers.values():
                    each.end(RolloutLeg.SUPERSEDED)
            self._latest[target] = rotation
        elif fill is None:
            rotation.has_more = True
        return fill

    def add_consumer(
        self, rotation: Rotation, fill: SecretFill, ref: WorkloadRef, now: float
    ) -> ConsumerRollout | None:
        """Add the rollout of a consumer to the effect of a rotation on a Secret. Return None if there is no room for
        it."""
        rollout = rotation.add_consumer(fill, ref, now)
        self._rollouts += rollout is not None
        while self._rollouts > MAX_ALL_ROLLOUTS:
            self._forget_oldest(rotation)
        return rollout

    def _forget_oldest(self, kept: Rotation) -> None:
        oldest = next(each for each in self._rotations.values() if each is not kept)
        del self._rotations[oldest.id]
        self._rollouts -= oldest.size
        for target in oldest.fills:
            if self._latest.get(target) is oldest:
                del self._latest[target]
