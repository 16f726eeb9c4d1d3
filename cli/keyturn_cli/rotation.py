"""Progress of one version of an AWS secret in a cluster. The progress is derived from the cluster's present state with
the same rules as in the receiver. This module reads no clock and does no I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from keyturn_cli.bound_secrets import Bound
from keyturn_cli.release import Settings
from keyturn_receiver.core.binding import CURRENT
from keyturn_receiver.core.consumer import Consumer
from keyturn_receiver.core.open_rollouts import is_restarted
from keyturn_receiver.core.revision import OK
from keyturn_receiver.core.rollout import lacks_keys, rollout
from keyturn_receiver.core.rollout_deadline import fails_at
from keyturn_receiver.core.rollout_permission import OuterLevels, refusal
from keyturn_receiver.core.rollout_progress import RolloutState
from keyturn_receiver.core.rollout_switch import ENABLED, ROLLOUT


class Stage(StrEnum):
    """The stage of a Secret or a workload."""

    WAITING = "waiting"  # the Secret has another version, or the workload still needs a restart
    FAILING = "failing"  # the Secret's status is an error
    APPLIED = "applied"  # the Secret has the version
    ROLLING = "rolling"  # the workload's pods are being restarted
    HELD = "held"  # the workload keeps pods with the old value
    FAILED = "failed"  # the workload's rollout has failed
    LIVE = "live"  # all pods of the workload use the version
    OFF = "off"  # Keyturn may not restart the workload


@dataclass(frozen=True, slots=True)
class Place:
    """The stage of a Secret, or of a workload that reads the Secret. ``why`` is a text for people."""

    name: str
    stage: Stage
    why: str = ""


def has_current(bound: Bound, secret_id: str | None) -> bool:
    """Return whether a Secret uses the staging label AWSCURRENT of an AWS secret. If ``secret_id`` is None, this may be
    any AWS secret of the binding."""
    sources = bound.sources_of(secret_id) if secret_id else bound.spec.sources
    return any(source.stage == CURRENT for source in sources)


def secret_place(bound: Bound, secret_id: str | None, version: str) -> Place:
    """Return the stage of a Secret on its way to a version. If ``secret_id`` is None, the version may belong to any AWS
    secret of the binding."""
    name = f"Secret {bound.target}"
    versions = bound.versions_of(secret_id) if secret_id else frozenset(bound.version_ids)
    if version in versions and (bound.record.status == OK):
        return Place(name, Stage.APPLIED)
    if bound.record.status not in ("", OK):
        return Place(name, Stage.FAILING, bound.record.status)
    has = ", ".join(sorted(each[:8] for each in versions))
    return Place(name, Stage.WAITING, f"it has version {has}" if has else "no receiver has filled it yet")


def workload_place(
    consumer: Consumer, bound: Bound, in_namespace: Mapping[str, str] | None, settings: Settings, now: float
) -> Place:
    """Return the stage of a workload on its way to the present values of a Secret. ``in_namespace`` are the annotations
    of its namespace, or None if they are not known. ``now`` is in seconds since 1970."""
    name, record = f"{consumer.ref.kind} {consumer.ref.namespace}/{consumer.ref.name}", bound.record
    if off := why_off(consumer, bound, in_namespace, settings):
        return Place(name, Stage.OFF, f"Keyturn does not restart it: {off}")
    if lacks_keys(consumer, bound.target.name, record):
        return Place(name, Stage.HELD, "its pods keep the old values: the Secret lacks a key that they need")
    if rollout(consumer, bound.target.name, record):
        return Place(name, Stage.WAITING, "it is due for a restart")
    if not is_restarted(consumer, bound.target.name, record):
        return Place(name, Stage.LIVE, "its pods have read these values")
    progress, hold = consumer.progress, consumer.hold
    if hold and hold.keeps_old_pods:
        return Place(name, Stage.HELD, hold.text)
    if hold or progress is None or progress.is_complete or progress.has_ended:
        return Place(name, Stage.LIVE, f"{progress.wanted} pods" if progress else "")
    counts = f"{min(progress.updated, progress.ready)}/{progress.wanted} pods"
    if progress.state is RolloutState.FAILED or now >= fails_at(consumer.ref.kind, progress):
        return Place(name, Stage.FAILED, f"{counts}; {progress.reason or 'its deadline is over'}")
    return Place(name, Stage.ROLLING, counts)


def why_off(consumer: Consumer, bound: Bound, in_namespace: Mapping[str, str] | None, settings: Settings) -> str:
    """Return the reason why a consumer may not be restarted, or an empty text if it may be restarted. If the
    annotations of the namespace are not known, it is assumed that they say nothing about restarts."""
    if not settings.rollouts:
        return "Keyturn restarts nothing here (chart value rollouts.enabled)"
    outer = OuterLevels(in_namespace or {}, settings.rollout_default, settings.reloader)
    off = refusal(consumer, bound.target, bound.spec, outer)
    permitting = replace(outer, in_namespace={ROLLOUT: ENABLED})
    if off and in_namespace is None and not refusal(consumer, bound.target, bound.spec, permitting):
        return f"{off}, unless namespace {bound.target.namespace} turns them on, whose annotations you may not read"
    return off


def consumers_of(bound: Bound, consumers: Sequence[Consumer]) -> list[Consumer]:
    """Return the workloads among ``consumers`` that read the Secret."""
    target = bound.target
    return [each for each in consumers if each.ref.namespace == target.namespace and target.name in each.reads]
