"""Prediction of the changes that a new version of an AWS secret would make in the cluster.

The receiver's functions in ``keyturn_receiver.core`` make the decisions. Their input is the record that the receiver
would write. This module reads no clock and does no I/O.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import islice

from keyturn_cli.bound_secrets import Bound
from keyturn_cli.release import Settings
from keyturn_cli.rotation import why_off
from keyturn_receiver.core.binding import Binding, Source, Target, read_binding
from keyturn_receiver.core.consumer import Consumer, Reads, WorkloadRef
from keyturn_receiver.core.mark import lacks_required_key
from keyturn_receiver.core.missing_keys import missing_keys
from keyturn_receiver.core.open_rollouts import is_open
from keyturn_receiver.core.partial import render_groups
from keyturn_receiver.core.plan import LiveSecret, plan
from keyturn_receiver.core.pod import Pod
from keyturn_receiver.core.policy import ALLOW_SECRETS, Tenancy, check_id
from keyturn_receiver.core.render import SecretVersion
from keyturn_receiver.core.revision import Record, next_revision, revision_of
from keyturn_receiver.core.rollout import RolloutAnnotation, baseline, is_behind, rollout
from keyturn_receiver.core.rollout_candidate import due_candidate, other_candidate
from keyturn_receiver.core.rollout_halt import is_resumed
from keyturn_receiver.core.rollout_schedule import Wait, WaitReason, schedule
from keyturn_receiver.core.rollout_window import WINDOW
from keyturn_receiver.core.secret_types import complete
from keyturn_receiver.core.unrestarted import Reader, Sort, has_to_be_told
from keyturn_receiver.core.write_times import next_times, rfc3339
from keyturn_receiver.errors import KeyturnError, NotAllowed

NEW_VERSION = "the-new-version"  # a placeholder for the version id that AWS would assign


class Outcome(StrEnum):
    """The predicted outcome for a workload."""

    RESTARTS = "restarts"
    HELD = "held"  # it gets its mark, but one of its own settings keeps some or all old pods
    WAITS = "waits"  # it is restarted later
    OFF = "off"  # Keyturn may not restart it, or Reloader restarts it
    UNCONCERNED = "unconcerned"  # its pods read no key that changes


@dataclass(frozen=True, slots=True)
class Change:
    """The predicted change of one Secret.

    ``before`` has the revisions before the write, and ``after`` is the record after the write. ``keys`` are the keys
    whose values change or may change. ``unknown`` are the keys among them that only may change, because they also
    depend on an AWS secret whose value is not known here. ``present`` are all keys of the Secret after the write.
    ``error`` is the reason why the Secret would not be filled, or an empty text. If there is an error, nothing changes.
    """

    before: Mapping[str, str] = field(default_factory=dict)
    after: Record = field(default_factory=Record)
    keys: tuple[str, ...] = ()
    present: frozenset[str] = frozenset()
    error: str = ""
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fate:
    """The predicted outcome for one workload, with the reason. ``missing`` are keys that the workload reads and that
    the Secret does not have."""

    ref: WorkloadRef
    outcome: Outcome
    reads: Reads
    why: str = ""
    missing: tuple[str, ...] = ()

    @property
    def is_marked(self) -> bool:
        """Whether the workload's pod template would be marked, or its pods evicted."""
        return self.outcome in (Outcome.RESTARTS, Outcome.HELD, Outcome.WAITS)


@dataclass(frozen=True, slots=True)
class Scene:
    """The input of a prediction: the present state of one Secret and its consumers. ``in_namespace`` are the
    annotations of the Secret's namespace, or None if they are not known. ``pods`` are the pods of those consumers that
    ``needs_pods`` returns, or None for a consumer whose pods are not known. ``now`` is in seconds since 1970."""

    bound: Bound
    consumers: Sequence[Consumer]
    in_namespace: Mapping[str, str] | None
    settings: Settings
    now: float
    pods: Mapping[WorkloadRef, Sequence[Pod] | None] = field(default_factory=dict)


def check_access(bound: Bound, source: Source, in_namespace: Mapping[str, str] | None, settings: Settings) -> str:
    """Return the reason why the Secret's namespace may not read an AWS secret. Return an empty text if it may read it,
    or if ``why_unchecked`` says why that is not known."""
    if settings.namespaces and bound.target.namespace not in settings.namespaces:
        return f"the receiver does not serve namespace {bound.target.namespace} (chart value namespaces)"
    if bound.spec.account and settings.are_known and not settings.tenant_roles:
        return "bindings may not name a ServiceAccount here (chart value tenantRoles.enabled)"
    if in_namespace is None or why_unchecked(in_namespace, settings, bound.target.namespace):
        return ""
    try:
        check_id(Tenancy(bound.target.namespace, in_namespace, settings.policy_default), source.secret_id)
    except NotAllowed as error:
        return f"{error.reason}: {error}"
    return ""


def why_unchecked(in_namespace: Mapping[str, str] | None, settings: Settings, namespace: str) -> str:
    """Return the reason why nobody knows what a namespace may read, or an empty text. ``in_namespace`` are its
    annotations, or None if they are not known."""
    if in_namespace is None:
        return f"you may not get namespace {namespace}"
    if ALLOW_SECRETS not in in_namespace and not settings.are_known:
        return f"the namespace has no annotation {ALLOW_SECRETS}, and the release's policy cannot be read"
    return ""


def supposed_change(bound: Bound, sources: Collection[Source], unfilled: str) -> Change:
    """Return the change for a rotation of ``sources``, under the assumption that every key that depends on them gets
    another value. ``unfilled`` is the error for a Secret that no receiver has handled."""
    try:
        binding = read_binding(bound.target, bound.spec)
    except KeyturnError as error:
        return Change(error=f"{error.reason}: {error}")
    recorded = bound.record.revisions
    if not bound.record.was_written:
        return Change(error=bound.status or unfilled, present=bound.keys)
    revisions = {
        entry.key: revision_of(NEW_VERSION, entry.key, entry.expression)
        for entry in binding.entries
        if entry.sources & set(sources)
    }
    if binding.everything_of in sources:
        revisions = dict.fromkeys(recorded, NEW_VERSION) | revisions
    appeared = revisions.keys() - bound.keys
    after = {**recorded, **{key: next_revision(recorded.get(key), each) for key, each in revisions.items()}}
    times = next_times(bound.record.write_times, after, revisions.keys() - appeared, appeared, removed=False)
    record = replace(bound.record, revisions=after, write_times=times)
    return Change(recorded, record, tuple(sorted(revisions)), bound.keys | after.keys())


def planned_change(
    bound: Bound, sources: Collection[Source], live: LiveSecret, values: Mapping[str, bytes], version: SecretVersion
) -> Change:
    """Return the change for a rotation that gives ``sources`` the value of ``version``. ``values`` are the Secret's
    present values. ``live`` is the present Secret. Its ``fingerprints`` are the values themselves and no hashes,
    because they do not leave this process."""
    try:
        binding = read_binding(bound.target, bound.spec)
        return _planned(binding, bound, sources, live, values, version)
    except KeyturnError as error:
        return Change(error=f"{error.reason}: {error}", present=bound.keys)


def _planned(
    binding: Binding,
    bound: Bound,
    sources: Collection[Source],
    live: LiveSecret,
    values: Mapping[str, bytes],
    version: SecretVersion,
) -> Change:
    versions = {source: version for source in binding.sources if source in sources}
    rendering = render_groups(binding.groups, versions, {}, live.type)
    if rendering.error:
        raise rendering.error
    data = dict(rendering.data)
    data |= {key: values[key] for key in rendering.skipped if key in values}
    unknown = tuple(
        entry.key for entry in binding.entries if entry.sources & set(sources) and not entry.sources <= versions.keys()
    )
    data = complete(live.type, binding, versions, data)
    made = plan(binding, bound.spec.hash, live, data, versions, data, lambda content: "", bound.spec.reconcile)
    record = made.record
    if unknown:  # unknown keys are treated as changed, so that the prediction does not wrongly say that nothing happens
        after = dict(record.revisions) | {key: f"{NEW_VERSION}.{key}" for key in unknown}
        times = next_times(record.write_times, after, unknown, (), removed=False)
        record = replace(record, revisions=after, write_times=times)
    keys = tuple(sorted({*made.changed_keys, *unknown}))
    removed = bound.record.revisions.keys() - record.revisions.keys()
    return Change(made.before, record, keys, (bound.keys | record.revisions.keys()) - removed, unknown=unknown)


def fates(scene: Scene, change: Change) -> list[Fate]:
    """Return the predicted outcome for each consumer of a Secret, sorted by kind, namespace and name."""
    name, after, before = scene.bound.target.name, change.after, Record(revisions=change.before)
    made: dict[WorkloadRef, Fate] = {}
    due: dict[WorkloadRef, Consumer] = {}
    others: list[Consumer] = []
    for consumer in sorted(scene.consumers, key=lambda each: each.ref):
        reads = consumer.reads[name]
        missing = missing_keys(reads, change.present)
        off = why_off(consumer, scene.bound, scene.in_namespace, scene.settings)
        mark = None if off else _mark(consumer, name, before, after)
        if off:
            made[consumer.ref] = Fate(consumer.ref, Outcome.OFF, reads, off, missing)
        elif mark is not None and not mark.restart and mark.undecided and scene.pods.get(consumer.ref, ()) is None:
            due[consumer.ref] = consumer
            fate = _due_fate(consumer, reads, missing)
            why = "only if one of its pods has the old value; you may not list its pods"
            made[consumer.ref] = fate if fate.outcome is Outcome.HELD else replace(fate, why=why)
        elif mark is None or not (mark.restart or _has_pod_behind(scene, consumer, name, after, mark)):
            lacks = lacks_required_key(reads, after)
            why = "not restarted, because a new pod would not start" if lacks else "reads no key that changes"
            made[consumer.ref] = Fate(consumer.ref, Outcome.UNCONCERNED, reads, why, missing)
            others.append(consumer)
        else:
            due[consumer.ref] = consumer
            made[consumer.ref] = _due_fate(consumer, reads, missing)
    for ref, wait in _waits(scene, list(due.values()), others, after).items():
        held = f"; then it {made[ref].why}" if made[ref].outcome is Outcome.HELD else ""
        made[ref] = replace(made[ref], outcome=Outcome.WAITS, why=f"{_why_waits(wait)}{held}")
    return list(made.values())


def needs_pods(scene: Scene, change: Change) -> list[Consumer]:
    """Return the consumers whose pods decide about the restart. ``fates`` needs these pods in ``Scene.pods``."""
    name, before = scene.bound.target.name, Record(revisions=change.before)
    bound, in_namespace, settings = scene.bound, scene.in_namespace, scene.settings
    permitted = (each for each in scene.consumers if not why_off(each, bound, in_namespace, settings))
    marks = ((each, _mark(each, name, before, change.after)) for each in permitted)
    return [consumer for consumer, mark in marks if mark and mark.undecided and not mark.restart]


def readers_left(
    readers: Iterable[Reader], target: Target, change: Change, restarted: Collection[str], limit: int = 20
) -> list[Reader]:
    """Return at most ``limit`` readers that Keyturn does not restart. These readers keep an old value, or read the new
    value at their next run. ``restarted`` are the names of the Secret's consumers."""
    keys = frozenset(change.keys)
    told = (each for each in readers if has_to_be_told(each, target.name, keys, change.after, frozenset(restarted)))
    return list(islice({each.name: each for each in told}.values(), limit))


def is_left_alone(reader: Reader) -> bool:
    """Return whether a reader needs no action, because its next run reads the new value."""
    return reader.sort in (Sort.JOB, Sort.CRON_JOB)


def _mark(consumer: Consumer, name: str, before: Record, after: Record) -> RolloutAnnotation | None:
    """Return the mark (Keyturn's annotation on the consumer) that a reconcile would write, or None if it would write
    none. The reconcile replaces the record ``before`` by the record ``after``. If the consumer has no mark yet, the
    reconcile first writes a baseline, which is a mark for ``before``."""
    if made := baseline(consumer, name, before, after):
        consumer = replace(consumer, baseline={**consumer.baseline, made.name: made.value})
    return rollout(consumer, name, after, before)


def _has_pod_behind(scene: Scene, consumer: Consumer, name: str, after: Record, mark: RolloutAnnotation) -> bool:
    pods = scene.pods.get(consumer.ref) or ()
    return mark.undecided and any(is_behind(pod, name, after, mark, consumer.seen_late) for pod in pods)


def _due_fate(consumer: Consumer, reads: Reads, missing: tuple[str, ...]) -> Fate:
    if consumer.hold:
        return Fate(consumer.ref, Outcome.HELD, reads, consumer.hold.text, missing)
    how = "its pods are evicted one by one" if consumer.evicts else ""
    return Fate(consumer.ref, Outcome.RESTARTS, reads, how, missing)


def _waits(
    scene: Scene, due: Sequence[Consumer], others: Sequence[Consumer], after: Record
) -> Mapping[WorkloadRef, Wait]:
    """Return the consumers that have to wait, each with the reason. ``due`` are the consumers that need a restart, and
    ``others`` are the remaining ones. A rollout that fails after the rotation would also make later consumers wait, but
    such a failure cannot be predicted."""
    bound, window, now = scene.bound, (scene.in_namespace or {}).get(WINDOW), scene.now
    candidates = [due_candidate(each, window, now, is_open(each)) for each in due]
    candidates += (other_candidate(each, bound.target.name, after, now) for each in others)
    limit = min(scene.settings.per_secret, bound.spec.pace or scene.settings.per_secret)
    slots = limit - sum(map(is_open, scene.consumers))
    return schedule(candidates, now, slots, resumed=is_resumed(bound.spec, after)).waits


def _why_waits(wait: Wait) -> str:
    match wait.reason:
        case WaitReason.WINDOW if wait.until < float("inf"):
            return f"when its window opens, {rfc3339(int(wait.until))}"
        case WaitReason.ORDER if wait.behind:
            return f"after {wait.behind.kind} {wait.behind.name}, which is before it in order"
        case WaitReason.PACE:
            return "when others have finished (rollout pace)"
        case WaitReason.HALT if wait.behind:
            return f"when the failed rollout of {wait.behind.kind} {wait.behind.name} is mended"
    return wait.reason.value
