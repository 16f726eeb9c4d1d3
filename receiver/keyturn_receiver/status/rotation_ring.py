"""Ring buffer of the last rotations. Its size is bounded, by the number of rotations and by that of their rollouts."""

from collections import OrderedDict
from collections.abc import Iterator

from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.consumer import WorkloadRef
from keyturn_receiver.status.rotation import MAX_SECRETS, ConsumerRollout, RolloutLeg, Rotation, SecretFill

MAX_ROTATIONS = 200
MAX_ALL_ROLLOUTS = 5000  # rollouts of all rotations in the ring


class RotationRing:
    """Ring buffer of rotations. ``now`` in its methods is the time in seconds since 1970."""

    def __init__(self) -> None:
        self._rotations: OrderedDict[str, Rotation] = OrderedDict()  # oldest first
        self._latest: dict[Target, Rotation] = {}  # the newest rotation of each Secret in the ring
        self._rollouts = 0  # of all rotations in the ring
        self.total = 0  # rotations since the start

    def get(self, rotation_id: str) -> Rotation | None:
        """Return the rotation with an id, or None."""
        return self._rotations.get(rotation_id)

    def newest_first(self) -> Iterator[Rotation]:
        """Yield the rotations, newest first."""
        return reversed(self._rotations.values())

    def of(self, target: Target) -> list[Rotation]:
        """Return the rotations of one Secret, newest first."""
        return [rotation for rotation in self.newest_first() if target in rotation.fills]

    def latest(self, target: Target) -> Rotation | None:
        """Return the newest rotation of one Secret, or None."""
        return self._latest.get(target)

    @property
    def has_fills(self) -> bool:
        """Whether a rotation in the ring has a Secret."""
        return bool(self._latest)

    def add(self, rotation: Rotation) -> None:
        """Add a rotation. The oldest one makes room for it."""
        self.total += 1
        self._rotations[rotation.id] = rotation
        if len(self._rotations) > MAX_ROTATIONS:
            self._forget_oldest(rotation)

    def fill(self, rotation: Rotation, target: Target, now: float) -> SecretFill | None:
        """Return the rotation's effect on a Secret, which is added if it is new. Return None if there is no room."""
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
        """Add the rollout of a consumer of one of the rotation's Secrets. Return None if there is no room."""
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
