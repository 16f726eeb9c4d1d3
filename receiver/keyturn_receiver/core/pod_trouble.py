"""Pod trouble: the reason why a pod is not ready, as the pod's status shows it. Only the ``reason`` fields of the
status are repeated, because its ``message`` fields may contain the name of a key, which may be secret."""

from collections.abc import Iterable, Mapping

from keyturn_receiver.core.conditions import condition, is_true
from keyturn_receiver.core.json_access import as_object, as_objects

MAX_REASON = 64  # characters
_STARTING = frozenset({"ContainerCreating", "PodInitializing"})


def trouble_of(pods: Iterable[Mapping[str, object]]) -> str:
    """Return why the newest unready pod is not ready, such as ``pod web-1: container main: ImagePullBackOff``. Return
    an empty text if all pods are ready."""
    unready = [pod for pod in pods if not _is_ready(pod)]
    if not unready:
        return ""
    newest = max(unready, key=lambda pod: str(as_object(pod.get("metadata")).get("creationTimestamp")))
    return f"pod {as_object(newest.get('metadata')).get('name')}: {_reason(as_object(newest.get('status')))}"


def _is_ready(pod: Mapping[str, object]) -> bool:
    return is_true(condition(as_object(pod.get("status")), "Ready"))


def _reason(status: Mapping[str, object]) -> str:
    for field in ("initContainerStatuses", "containerStatuses"):
        for container in as_objects(status.get(field)):
            for state in ("waiting", "terminated"):
                reason = as_object(as_object(container.get("state")).get(state)).get("reason")
                if reason and reason not in _STARTING and not (field[0] == "i" and reason == "Completed"):
                    return f"container {container.get('name')}: {str(reason)[:MAX_REASON]}"
    scheduled = condition(status, "PodScheduled")
    if scheduled.get("status") == "False":
        return str(scheduled.get("reason") or "Unschedulable")[:MAX_REASON]
    return str(status.get("reason") or "not ready")[:MAX_REASON]
