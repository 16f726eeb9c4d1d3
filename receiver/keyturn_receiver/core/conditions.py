"""Conditions in the status of a Kubernetes object.

https://github.com/kubernetes/community/blob/master/contributors/devel/sig-architecture/api-conventions.md#typical-status-properties
"""

from collections.abc import Mapping

from keyturn_receiver.core.json_access import as_objects


def condition(status: Mapping[str, object], name: str) -> Mapping[str, object]:
    """Return the condition whose type is ``name``, or an empty object if the status does not have it."""
    return next((each for each in as_objects(status.get("conditions")) if each.get("type") == name), {})


def is_true(found: Mapping[str, object]) -> bool:
    """Return whether a condition is true. A missing or unknown condition is not true."""
    return found.get("status") == "True"
