"""Way of a restart: the annotation ``keyturn.dev/restart`` on a workload or its pod template.

Usually a mark on the pod template restarts the pods. Where another writer owns the template and reverts the mark, the
pods can be evicted instead, one by one, which changes no template.
"""

from collections.abc import Mapping

RESTART = "keyturn.dev/restart"
EVICT = "evict"
TEMPLATE = "template"

_MAX_TEXT = 40  # characters of a text that is not understood; the rest is not told


def evicts_pods(on_workload: Mapping[str, object], on_template: Mapping[str, object]) -> bool:
    """Return whether the pods are to be evicted. The annotation on the pod template goes first."""
    text = _text(on_template) if RESTART in on_template else _text(on_workload)
    return text == EVICT


def restart_faults(annotations: Mapping[str, object], place: str = "") -> tuple[str, ...]:
    """Return what is wrong with the annotation. ``place`` tells where it is, such as "on the pod template"."""
    text = _text(annotations)
    if RESTART not in annotations or text in (EVICT, TEMPLATE):
        return ()
    where = f"{RESTART} {place}".strip()
    return (f'annotation {where} is "{text:.{_MAX_TEXT}}": write {EVICT}, or {TEMPLATE}, which is the default',)


def _text(annotations: Mapping[str, object]) -> str:
    return str(annotations.get(RESTART, "")).strip()
