"""Field owners: the writers of an object's fields, as Kubernetes records them in the object's managed fields.

https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management
"""

from collections.abc import Iterable, Mapping, Set

from keyturn_receiver.core.json_access import as_object, as_objects
from keyturn_receiver.core.workload_kinds import WorkloadKind

FIELD_MANAGER = "keyturn"
# The status has a field manager of its own. If the manager of the data applied only the status, the API server would
# remove the data.
STATUS_MANAGER = "keyturn-status"
# On Secrets that others fill, Keyturn owns one annotation and nothing else.
WATCH_MANAGER = "keyturn-watch"
# A mark that restarts nobody has a field manager of its own. Otherwise its write would move the time at which Keyturn
# has restarted the workload.
SETTLED_MANAGER = "keyturn-settled"
# The field managers with which the receiver writes.
MANAGERS = frozenset({FIELD_MANAGER, STATUS_MANAGER, WATCH_MANAGER, SETTLED_MANAGER})


def managed_fields(metadata: Mapping[str, object]) -> list[Mapping[str, object]]:
    """Return the entries of an object's managed fields: one for each writer and kind of write."""
    return as_objects(metadata.get("managedFields"))


def owned(fields: Mapping[str, object], *path: str) -> frozenset[str]:
    """Return the names of the fields below ``path`` in an entry's ``fieldsV1``. For the path "metadata", "annotations",
    these are the names of annotations."""
    return frozenset(name.removeprefix("f:") for name in _below(fields, path) if name.startswith("f:"))


def owns(fields: Mapping[str, object], names: Iterable[str], *path: str) -> bool:
    """Return whether an entry's ``fieldsV1`` contains all ``names`` below ``path``. The function does not go through
    the other fields, because there may be tens of thousands."""
    below = _below(fields, path)
    return all(f"f:{name}" in below for name in names)


def owns_exactly(fields: Mapping[str, object], names: Set[str], *path: str) -> bool:
    """Return whether an entry's ``fieldsV1`` contains exactly ``names`` below ``path``. The search ends at the first
    other field."""
    below = _below(fields, path)
    return owns(fields, names, *path) and all(name[2:] in names for name in below if name.startswith("f:"))


def other_writer(kind: WorkloadKind, workload: Mapping[str, object], annotation: str, removed: bool) -> str | None:
    """Return the field manager that owns ``annotation`` on the workload or on its pod template. Keyturn's own field
    managers do not count. If several own it, return the one that wrote last.

    Nobody owns an annotation that was ``removed``. In this case, return the field manager that wrote the workload last.
    Return None if there is no such field manager.
    """
    owners: list[tuple[str, str]] = []
    others: list[tuple[str, str]] = []
    for entry in managed_fields(as_object(workload.get("metadata"))):
        manager = str(entry.get("manager", ""))
        if manager in MANAGERS or entry.get("subresource"):
            continue
        fields, annotations = as_object(entry.get("fieldsV1")), ("metadata", "annotations")
        is_owner = any(owns(fields, [annotation], *path) for path in (annotations, (*kind.template, *annotations)))
        (owners if is_owner else others).append((str(entry.get("time", "")), manager))
    writers = owners or (others if removed else [])
    return max(writers)[1] if writers else None


def _below(fields: Mapping[str, object], path: Iterable[str]) -> Mapping[str, object]:
    for name in path:
        fields = as_object(fields.get(f"f:{name}"))
    return fields
