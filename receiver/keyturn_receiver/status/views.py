"""Views of the caches, for the status page and its JSON. The functions are pure, and return frozen structs.

Times are seconds since 1970. A view has names, states and the texts of statuses. It never has a value. It names a key
only if the binding itself or the text of a status names the key.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import quantiles

import msgspec

from keyturn_receiver.core.binding import CURRENT
from keyturn_receiver.status.binding_states import NEEDING_SOMEBODY, BindingState, Trouble
from keyturn_receiver.status.rotation import ConsumerRollout, Rotation, SecretFill

MAX_ATTENTION = 50  # a snapshot shows at most this many bindings that need a person
MAX_SHOWN = 60  # at most this many rotations in a snapshot


class View(msgspec.Struct, frozen=True, rename="camel"):
    """Base of the views. In JSON, the names of fields are in camelCase."""


class RolloutView(View, frozen=True):
    """The rollout of one consumer after one rotation."""

    kind: str
    namespace: str
    name: str
    state: str
    wanted: int
    updated: int
    ready: int
    marked_at: float
    live_at: float | None
    note: str


class FillView(View, frozen=True):
    """The effect of one rotation on one Secret. ``has_more`` is true if some consumers were left out. In a snapshot,
    ``consumers`` is empty once the rotation has ended."""

    namespace: str
    name: str
    started_at: float
    fetched_at: float | None
    applied_at: float | None
    done_at: float | None
    changed: bool
    reason: str
    error: str
    consumers: tuple[RolloutView, ...]
    has_more: bool


class RotationView(View, frozen=True):
    """One rotation, with the times of its legs: told (the staging label moved), received, applied, answered, live (all
    pods use the new value).

    ``rollouts`` maps each state to the number of consumers in this state. ``has_more`` is true if some Secrets were
    left out.
    """

    id: str
    cause: str
    secret: str
    version: str
    label: str
    told_at: float | None
    received_at: float
    applied_at: float | None
    answered_at: float | None
    live_at: float | None
    attempts: int
    outcome: str
    reason: str
    open: bool
    rollouts: Mapping[str, int]
    fills: tuple[FillView, ...]
    has_more: bool


class Health(View, frozen=True):
    """One line about a part that the receiver depends on. ``state`` is "ok", "bad" or "off"."""

    title: str
    state: str
    text: str


class Counts(View, frozen=True):
    """The number of bindings in each state, and the number of rotations that this replica has seen since its start."""

    bindings: int
    ok: int
    need_somebody: int
    retrying: int
    new: int
    stuck_rollouts: int
    rotations: int


class Propagation(View, frozen=True):
    """Propagation times of the rotations in memory. A propagation time is the number of seconds from the move of the
    staging label until the last pod was ready. ``count`` is the number of rotations that have such a time."""

    count: int
    median: float | None
    p95: float | None


class Attention(View, frozen=True):
    """A binding that needs a person, or a stuck rollout."""

    namespace: str
    name: str
    state: str
    reason: str
    text: str
    since: float


class Replica(View, frozen=True):
    """The replica that serves the page. ``installation`` is the namespace and the name of the Helm release."""

    release: str
    cluster: str
    installation: str
    name: str
    started_at: float


class Status(View, frozen=True):
    """The data of the first screen. ``more_attention`` is the number of bindings that need a person but are not in
    ``attention``."""

    replica: Replica
    now: float
    health: tuple[Health, ...]
    counts: Counts
    propagation: Propagation
    attention: tuple[Attention, ...]
    more_attention: int
    rotations: tuple[RotationView, ...]


class BindingRow(View, frozen=True):
    """One row of the list of bindings. ``secrets`` are the AWS secrets that the binding names."""

    namespace: str
    name: str
    secrets: tuple[str, ...]
    state: str
    reason: str
    text: str
    version: str
    changed_at: int | None
    consumers: int


class BindingPage(View, frozen=True):
    """A page of the list. ``total`` is the number of all matching bindings. ``offset`` is the number of matching
    bindings before this page."""

    total: int
    offset: int
    bindings: tuple[BindingRow, ...]


def rollout_view(rollout: ConsumerRollout) -> RolloutView:
    """Return the view of a consumer's rollout."""
    ref = rollout.ref
    return RolloutView(
        ref.kind,
        ref.namespace,
        ref.name,
        rollout.leg.value,
        rollout.wanted,
        rollout.updated,
        rollout.ready,
        rollout.marked_at,
        rollout.live_at,
        rollout.note,
    )


def fill_view(fill: SecretFill, with_consumers: bool) -> FillView:
    """Return the view of the effect of a rotation on a Secret. ``with_consumers`` tells whether the view lists the
    consumers."""
    return FillView(
        fill.target.namespace,
        fill.target.name,
        fill.started_at,
        fill.fetched_at,
        fill.applied_at,
        fill.done_at,
        fill.changed,
        fill.reason,
        fill.error,
        tuple(map(rollout_view, fill.consumers.values())) if with_consumers else (),
        fill.has_more,
    )


def snapshot_view(rotation: Rotation) -> RotationView:
    """Return the view of a rotation for a snapshot. The view lists consumers only while the rotation is open."""
    return rotation_view(rotation, with_consumers=rotation.is_open)


def rotation_view(rotation: Rotation, with_consumers: bool = True) -> RotationView:
    """Return the view of a rotation."""
    return RotationView(
        rotation.id,
        rotation.cause,
        rotation.secret,
        rotation.version,
        "" if rotation.label == CURRENT else rotation.label,
        rotation.told_at,
        rotation.received_at,
        rotation.applied_at(),
        rotation.answered_at,
        rotation.live_at(),
        rotation.attempts,
        rotation.outcome,
        rotation.reason,
        rotation.is_open,
        Counter(each.leg.value for each in rotation.consumers()),
        tuple(fill_view(fill, with_consumers) for fill in rotation.fills.values()),
        rotation.has_more,
    )


def attention_view(trouble: Trouble) -> Attention:
    """Return the view of a binding's trouble."""
    target = trouble.target
    return Attention(target.namespace, target.name, trouble.state.value, trouble.reason, trouble.text, trouble.since)


def propagation(rotations: Iterable[Rotation]) -> Propagation:
    """Return the propagation times of rotations. A rotation does not count if the time of the move of its staging label
    is not known, if it restarted no pod, or if not all of its rollouts are live."""
    seconds = sorted(
        max(0.0, live_at - rotation.told_at)
        for rotation in rotations
        if rotation.told_at is not None and (live_at := rotation.live_at()) is not None
    )
    if not seconds:
        return Propagation(0, None, None)
    return Propagation(len(seconds), seconds[len(seconds) // 2], _p95(seconds))


def _p95(seconds: Sequence[float]) -> float:
    return seconds[0] if len(seconds) == 1 else quantiles(seconds, n=20, method="inclusive")[18]


def counts(bindings: int, by_state: Mapping[BindingState, int], stuck: int, rotations: int) -> Counts:
    """Return the counts on the first screen."""
    return Counts(
        bindings,
        bindings - sum(by_state.get(each, 0) for each in BindingState if each is not BindingState.OK),
        sum(by_state.get(each, 0) for each in NEEDING_SOMEBODY),
        by_state.get(BindingState.RETRYING, 0),
        by_state.get(BindingState.NEW, 0),
        stuck,
        rotations,
    )


def version_text(version_ids: Iterable[str]) -> str:
    """Return the version ids of a Secret as one text."""
    return ", ".join(sorted(set(version_ids)))
