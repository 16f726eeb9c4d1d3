"""Argo Rollouts: how a Rollout restarts its pods, and which settings keep its pods from restarting.

A Rollout can restart its pods in two ways. A changed pod template makes a new revision, which passes through the steps
of the strategy: pauses, analysis, promotion. A time in ``spec.restartAt`` makes Argo evict the pods that were created
before this time. That makes no new revision, and works even while the Rollout is paused. The annotation
``keyturn.dev/restart`` chooses one of the two ways.

A Rollout with ``spec.workloadRef`` has no pod template of its own. It takes the template of another workload, usually
of a Deployment without replicas.

https://argo-rollouts.readthedocs.io/en/stable/features/restart/
https://argo-rollouts.readthedocs.io/en/stable/migrating/
"""

from collections.abc import Mapping

from msgspec import Raw
from msgspec.json import decode

from keyturn_receiver.core.json_access import as_object, as_objects
from keyturn_receiver.core.restart_way import RESTART, RESTART_AT, restart_way
from keyturn_receiver.core.rollout_hold import NO_REPLICAS, RolloutHold
from keyturn_receiver.core.write_times import parse_time, rfc3339

RELOADER_STRATEGY = "reloader.stakater.com/rollout-strategy"
# ``restartAt`` is at most this many seconds after Keyturn's write of it. If ``restartAt`` is later, somebody else
# has planned a restart.
MAX_LEAD = 60
MAX_STEPS = 16 * 1024  # bytes of a canary's steps; a longer list is not searched for pauses

PAUSED = RolloutHold("is paused: its pods restart when you set spec.paused to false")
UNPROMOTED = RolloutHold(
    "waits before its new pods serve (autoPromotionEnabled is false): promote it (kubectl argo rollouts promote)"
)
STOPS = RolloutHold(
    "pauses within its canary steps until you promote it (kubectl argo rollouts promote): until then some pods keep the"
    " old value",
    every_pod=False,
)


def restarts_by_time(
    on_workload: Mapping[str, object], on_template: Mapping[str, object], is_reloader_replaced: bool
) -> bool:
    """Return whether the pods of a Rollout are restarted by ``spec.restartAt``, according to the annotations of the
    Rollout and of its pod template. Reloader's annotation counts only if Keyturn has replaced Reloader and Keyturn's
    own annotation is absent."""
    way = restart_way(on_workload, on_template)
    return way == RESTART_AT or (not way and is_reloader_replaced and on_workload.get(RELOADER_STRATEGY) == "restart")


def borrower_faults(workload: Mapping[str, object], names_secrets: bool, spares_template: bool) -> tuple[str, ...]:
    """Return what is wrong with a Rollout that takes its pod template from another workload. ``names_secrets`` tells
    whether the Rollout's annotations name Secrets. ``spares_template`` tells whether its pods are restarted without a
    change of the template.

    The template of such a Rollout is empty. A label or annotation in it, such as Keyturn's mark (the annotation that
    restarts pods), would make the Rollout invalid.
    """
    if not names_secrets or spares_template or not _template_ref(workload):
        return ()
    return (
        "it takes its pod template from another workload (workloadRef), and its own annotations name Secrets: move them"
        f" to that workload, or write {RESTART}: {RESTART_AT}",
    )


def lender(workload: Mapping[str, object]) -> tuple[str, str] | None:
    """Return the kind and the name of a Rollout's lender. The lender is the workload whose pod template the Rollout
    takes. Return None if the Rollout has a template of its own."""
    ref = _template_ref(workload)
    return (str(ref.get("kind")), str(ref.get("name"))) if ref else None


def read_argo_hold(workload: Mapping[str, object], by_time: bool) -> RolloutHold | None:
    """Return the reason why some or all pods of a Rollout cannot restart without a person. Return None if all pods
    can."""
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


def restart_time(workload: Mapping[str, object], written_at: int, now: float) -> str:
    """Return the value of ``spec.restartAt`` (RFC 3339) with which a Rollout restarts the pods that were created before
    ``written_at`` (seconds since 1970).

    Argo does not restart pods that were created in the same second as ``restartAt``. So the result is one second later
    than ``written_at``. The present ``restartAt`` stays if it is later than that, because a later write of another
    Secret may need it. It is replaced if it is more than MAX_LEAD seconds after ``now`` (seconds since 1970).
    """
    present = parse_time(as_object(workload.get("spec")).get("restartAt"))
    at = written_at + 1
    return rfc3339(present if present is not None and at < present <= now + MAX_LEAD else at)


def _template_ref(workload: Mapping[str, object]) -> Mapping[str, object]:
    return as_object(as_object(workload.get("spec")).get("workloadRef"))


def _steps(steps: object) -> list[Mapping[str, object]]:
    if isinstance(steps, Raw):  # JSON that ``cluster/wanted_fields.py`` did not parse
        steps = decode(steps) if len(bytes(steps)) <= MAX_STEPS else None
    return as_objects(steps)
