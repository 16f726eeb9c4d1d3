"""View of one binding, and rows of the list of bindings. The functions are pure. They take entries of the
caches as arguments."""

from collections.abc import Collection, Iterable, Sequence

from keyturn_receiver.cluster.secret_cache import BoundSecret
from keyturn_receiver.core.binding import CURRENT, Source, versions_of
from keyturn_receiver.core.consumer import Consumer, WorkloadRef
from keyturn_receiver.core.history import Change
from keyturn_receiver.core.mark import has_mark_of, present_mark
from keyturn_receiver.core.missing_keys import named_keys
from keyturn_receiver.core.printable import printable
from keyturn_receiver.core.revision import split_version_key
from keyturn_receiver.core.rollout import lacks_keys, rollout
from keyturn_receiver.core.rollout_progress import RolloutState
from keyturn_receiver.status.binding_states import BindingState, Trouble
from keyturn_receiver.status.rotation import Rotation
from keyturn_receiver.status.views import BindingRow, RotationView, View, rotation_view, version_text

MAX_KEYS = 200  # a view names at most this many keys
MAX_CONSUMERS = 200  # a view names at most this many consumers
MAX_TEXT = 256  # a view shows at most this many characters of a name that the author of a binding chose


class SourceView(View, frozen=True):
    """An AWS secret that a binding names, as the author of the binding wrote it. ``versions`` are the versions that the
    Secret holds."""

    secret: str
    stage: str
    arn: str
    versions: tuple[str, ...]


class ConsumerView(View, frozen=True):
    """A workload whose pods read the Secret. ``reads`` names the keys that they read. ``text`` describes the progress
    of the pods."""

    kind: str
    name: str
    state: str
    text: str
    reads: str


class ChangeView(View, frozen=True):
    """One of the last changes of a Secret, from the annotation ``keyturn.dev/history``."""

    at: str
    version: str
    was: str
    moved_at: str
    cause: str
    event: str
    keys: int
    due: int


class BindingView(View, frozen=True):
    """One binding. ``keys`` are those keys of the Secret that the binding names. ``other_keys`` is the number of the
    Secret's other keys.

    ``history`` is None if the request did not ask for the history, or if the history could not be read.
    ``history_error`` is the reason why it could not be read, or empty.
    """

    namespace: str
    name: str
    state: str
    reason: str
    text: str
    since: float | None
    intact: bool
    account: str
    changed_at: int | None
    moved_at: int | None
    sources: tuple[SourceView, ...]
    keys: tuple[str, ...]
    other_keys: int
    consumers: tuple[ConsumerView, ...]
    more_consumers: int
    rotations: tuple[RotationView, ...]
    history: tuple[ChangeView, ...] | None
    history_error: str


def row(bound: BoundSecret, trouble: Trouble | None, consumers: int) -> BindingRow:
    """Return the row of a binding in the list."""
    record = bound.record
    return BindingRow(
        bound.target.namespace,
        bound.target.name,
        tuple(printable(source.secret_id)[:MAX_TEXT] for source in bound.spec.sources),
        (trouble.state if trouble else BindingState.OK).value,
        trouble.reason if trouble else "",
        trouble.text if trouble else "",
        version_text(record.version_ids.values()),
        record.changed_at,
        consumers,
    )


def binding_view(
    bound: BoundSecret,
    trouble: Trouble | None,
    consumers: Sequence[ConsumerView],
    rotations: Iterable[Rotation],
    history: Sequence[Change] | None,
    history_error: str,
) -> BindingView:
    """Return the view of a binding."""
    spec, record, keys = bound.spec, bound.record, bound.keys
    named = named_keys(keys or record.revisions.keys(), spec.data)
    return BindingView(
        bound.target.namespace,
        bound.target.name,
        (trouble.state if trouble else BindingState.OK).value,
        trouble.reason if trouble else "",
        trouble.text if trouble else "",
        trouble.since if trouble else None,
        bound.is_intact,
        printable(spec.account)[:MAX_TEXT],
        record.changed_at,
        record.moved_at,
        tuple(_source(source, bound) for source in spec.sources),
        named[:MAX_KEYS],
        len(keys if keys is not None else record.revisions) - len(named[:MAX_KEYS]),
        tuple(consumers[:MAX_CONSUMERS]),
        max(0, len(consumers) - MAX_CONSUMERS),
        tuple(map(rotation_view, rotations)),
        None if history is None else tuple(map(_change, history)),
        history_error,
    )


def consumer_views(
    bound: BoundSecret,
    consumers: Iterable[Consumer],
    permitted: Collection[WorkloadRef],
    stuck: Collection[WorkloadRef],
) -> list[ConsumerView]:
    """Return the views of a Secret's consumers. Consumers that need a person come first. ``permitted`` are the
    workloads that Keyturn may restart for the Secret. ``stuck`` are the workloads whose rollout is stuck."""
    named = frozenset(named_keys(bound.keys or bound.record.revisions.keys(), bound.spec.data))
    views = []
    for consumer in consumers:
        state, text = _state(bound, consumer, consumer.ref in permitted, consumer.ref in stuck)
        views.append(ConsumerView(consumer.ref.kind, consumer.ref.name, state, text, _reads(bound, consumer, named)))
    return sorted(views, key=lambda each: (_ORDER.index(each.state), each.kind, each.name))


_ORDER = ("failed", "held", "off", "due", "rolling", "live")


def _state(bound: BoundSecret, consumer: Consumer, is_permitted: bool, is_stuck: bool) -> tuple[str, str]:
    name, record, progress = bound.target.name, bound.record, consumer.progress
    is_marked = present_mark(consumer, name, record) is not None
    pods = f"{min(progress.updated, progress.ready)} of {progress.wanted} pods ready" if progress else ""
    if not is_permitted:
        why = consumer.faults[0] if consumer.faults else "restarts are switched off for it"
        return "off", printable(why)[:MAX_TEXT]
    if is_marked and (is_stuck or (progress and progress.state is RolloutState.FAILED)):
        return "failed", f"goes no further: {pods}" + (f", {progress.reason}" if progress and progress.reason else "")
    if consumer.hold and is_marked and consumer.hold.keeps_old_pods:
        return "held", consumer.hold.text
    if lacks_keys(consumer, name, record):
        return "held", "its pods keep the old values: the Secret lacks a key that they need"
    if not (is_marked or has_mark_of(consumer, name, record)) and rollout(consumer, name, record):
        return "due", "its restart is due"
    if is_marked and progress and not progress.is_complete:
        return "rolling", pods if progress.observed else f"starts: {progress.ready} of {progress.wanted} pods ready"
    if is_marked:
        return "live", f"all pods run it: {pods}" if pods else "restarted for it"
    return "live", "its pods have not had to restart"


def _reads(bound: BoundSecret, consumer: Consumer, named: frozenset[str]) -> str:
    reads = consumer.reads.get(bound.target.name)
    if reads is None or reads.whole:
        return "every key"
    known = sorted(reads.keys & named)[:MAX_KEYS]
    others = len(reads.keys) - len(known)
    counted = f"{others} {'other ' if known else ''}{'key' if others == 1 else 'keys'}" if others else ""
    return " and ".join(filter(None, (", ".join(known), counted)))


def _source(source: Source, bound: BoundSecret) -> SourceView:
    versions = versions_of(source, bound.record.version_ids)
    arn = next((split_version_key(key)[0] for key in versions), "")
    stage = "" if source.stage == CURRENT else printable(source.stage)[:MAX_TEXT]
    return SourceView(printable(source.secret_id)[:MAX_TEXT], stage, arn, tuple(versions.values()))


def _change(change: Change) -> ChangeView:
    return ChangeView(
        change.at,
        change.version,
        change.was,
        change.moved_at,
        change.cause,
        change.event,
        change.keys,
        change.due,
    )
