"""Restart way: the annotation ``keyturn.dev/restart`` on a workload or its pod template.

Usually Keyturn restarts the pods by a mark, which is an annotation on the pod template. If another writer owns the
template and reverts the mark, the pods can be evicted instead, one by one. That changes no template. Argo's Rollouts
have a third way (``core/argo_rollouts.py``).
"""

from collections.abc import Mapping

RESTART = "keyturn.dev/restart"
EVICT = "evict"
TEMPLATE = "template"
RESTART_AT = "restart-at"  # only for Argo's Rollouts

_MAX_TEXT = 40  # a message repeats at most this many characters of a wrong text


def evicts_pods(on_workload: Mapping[str, object], on_template: Mapping[str, object]) -> bool:
    """Return whether the annotation asks for an eviction of the pods."""
    return restart_way(on_workload, on_template) == EVICT


def restart_way(on_workload: Mapping[str, object], on_template: Mapping[str, object]) -> str:
    """Return the text of the annotation, or an empty text if there is none. The annotation on the pod template takes
    precedence."""
    return _text(on_template) if RESTART in on_template else _text(on_workload)


def restart_faults(annotations: Mapping[str, object], place: str = "", has_restart_at: bool = False) -> tuple[str, ...]:
    """Return what is wrong with the annotation. ``place`` tells where it is, such as "on the pod template", and
    ``has_restart_at`` tells whether the kind of the workload has ``spec.restartAt``."""
    text = _text(annotations)
    ways = (EVICT, RESTART_AT) if has_restart_at else (EVICT,)
    if RESTART not in annotations or text in (*ways, TEMPLATE):
        return ()
    where = f"{RESTART} {place}".strip()
    told = ", ".join(ways)
    return (f'annotation {where} is "{text:.{_MAX_TEXT}}": write {told}, or {TEMPLATE}, which is the default',)


def _text(annotations: Mapping[str, object]) -> str:
    return str(annotations.get(RESTART, "")).strip()
