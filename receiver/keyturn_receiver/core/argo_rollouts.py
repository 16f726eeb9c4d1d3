"""Argo Rollouts: how a Rollout restarts its pods, and what holds that back.

A Rollout has two ways. A changed pod template makes a new revision, which passes the steps of its strategy: pauses,
analysis, promotion. ``spec.restartAt`` evicts the pods that were created before that time, without a new revision, and
even while the Rollout is paused. The annotation STRATEGY chooses. With ``spec.workloadRef``, a Rollout has no pod
template of its own: it takes that of another workload, mostly of a Deployment without replicas.

https://argo-rollouts.readthedocs.io/en/stable/features/restart/
https://argo-rollouts.readthedocs.io/en/stable/migrating/
"""

from collections.abc import Mapping
from datetime import UTC, datetime

from msgspec import Raw
from msgspec.json import decode

from keyturn_receiver.core.json_access import as_object, as_objects
from keyturn_receiver.core.rollout_hold import NO_REPLICAS, RolloutHold
from keyturn_receiver.core.workload_kinds import WorkloadKind

STRATEGY = "keyturn.dev/rollout-strategy"
RELOADER_STRATEGY = "reloader.stakater.com/rollout-strategy"
TEMPLATE = "template"
RESTART = "restart"
MAX_TEXT = 40  # characters of a text that is not understood; the rest is not told
MAX_STEPS = 16 * 1024  # bytes of a canary's steps; of a longer list, nothing is said

PAUSED = RolloutHold("is paused: its pods restart when you set spec.paused to false")
UNPROMOTED = RolloutHold(
    "waits before its new pods serve (autoPromotionEnabled is false): promote it (kubectl argo rollouts promote)"
)
STOPS = RolloutHold(
    "pauses within its canary steps until you promote it (kubectl argo rollouts promote): until then some pods keep the"
    " old value",
    every_pod=False,
)


def restarts_by_time(kind: WorkloadKind, annotations: Mapping[str, object], is_reloader_replaced: bool) -> bool:
    """Return whether the annotations of a workload say to restart its pods by ``spec.restartAt``.

    Reloader's annotation counts if Reloader was replaced and STRATEGY is absent.
    """
    if not kind.has_restart_at:
        return False
    if STRATEGY in annotations:
        return _text(annotations) == RESTART
    return is_reloader_replaced and annotations.get(RELOADER_STRATEGY) == RESTART


def strategy_faults(
    kind: WorkloadKind, workload: Mapping[str, object], by_time: bool, names_secrets: bool
) -> tuple[str, ...]:
    """Return what is wrong with STRATEGY, and with annotations that name Secrets on a Rollout which has no pod template
    of its own. ``names_secrets`` tells whether there are such annotations."""
    annotations = as_object(as_object(workload.get("metadata")).get("annotations"))
    if STRATEGY in annotations:
        if not kind.has_restart_at:
            return (f"annotation {STRATEGY} has no effect on a {kind.kind}: remove it",)
        if (text := _text(annotations)) not in (TEMPLATE, RESTART):
            return (f'annotation {STRATEGY} is "{text:.{MAX_TEXT}}": write {TEMPLATE} or {RESTART}',)
    if kind.has_restart_at and names_secrets and not by_time and _template_ref(workload):
        return (
            "it takes its pod template from another workload (workloadRef), and its own annotations name Secrets: move"
            f" them to that workload, or write {STRATEGY}: {RESTART}",
        )
    return ()


def lender(workload: Mapping[str, object]) -> tuple[str, str] | None:
    """Return the kind and the name of the workload whose pod template a Rollout takes, or None if it has its own."""
    ref = _template_ref(workload)
    return (str(ref.get("kind")), str(ref.get("name"))) if ref else None


def read_argo_hold(workload: Mapping[str, object], by_time: bool) -> RolloutHold | None:
    """Return what holds back the restart of a Rollout's pods, or None if all of them restart without a person."""
    spec = as_object(workload.get("spec"))
    if spec.get("replicas") == 0:
        return NO_REPLICAS
    if by_time:
        return None
    if spec.get("paused") is True:
        return PAUSED
    strategy = as_object(spec.get("strategy"))
    if as_object(strategy.get("blueGreen")).get("autoPromotionEnabled") is False:
        return UNPROMOTED
    steps = _steps(as_object(strategy.get("canary")).get("steps"))
    pauses = (step["pause"] for step in steps if "pause" in step)
    return STOPS if any(not as_object(pause).get("duration") for pause in pauses) else None


def restart_time(written_at: int) -> str:
    """Return the ``spec.restartAt`` for a Secret that was written at ``written_at``, in seconds since 1970.

    Pods that were created in the very second of ``restartAt`` are not restarted. So it is the next one.
    """
    return datetime.fromtimestamp(written_at + 1, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _template_ref(workload: Mapping[str, object]) -> Mapping[str, object]:
    return as_object(as_object(workload.get("spec")).get("workloadRef"))


def _steps(steps: object) -> list[Mapping[str, object]]:
    if isinstance(steps, Raw):  # as ``cluster/wanted_fields.py`` keeps it
        steps = decode(steps) if len(bytes(steps)) <= MAX_STEPS else None
    return as_objects(steps)


def _text(annotations: Mapping[str, object]) -> str:
    return str(annotations[STRATEGY]).strip()
