"""Field owners: the writer, other than Keyturn, that last touched an annotation of a workload.

https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management
"""

from collections.abc import Mapping

from keyturn_receiver.core.json_access import as_object, as_objects
from keyturn_receiver.core.vocabulary import MANAGERS
from keyturn_receiver.core.workload_kinds import WorkloadKind


def other_writer(kind: WorkloadKind, workload: Mapping[str, object], annotation: str, removed: bool) -> str | None:
    """Return the field manager that owns ``annotation``, on the workload or on its pod template.

    Nobody owns an annotation that is gone. So if it was ``removed`` and has no other owner, return the manager that
    wrote last. Return None if there is no such manager.
    """
    owners: list[tuple[str, str]] = []
    others: list[tuple[str, str]] = []
    for entry in as_objects(as_object(workload.get("metadata")).get("managedFields")):
        manager = str(entry.get("manager", ""))
        if manager in MANAGERS or entry.get("subresource"):
            continue
        fields = as_object(entry.get("fieldsV1"))
        template = fields
        for name in kind.template:
            template = as_object(template.get(f"f:{name}"))
        owned = any(
            f"f:{annotation}" in as_object(as_object(each.get("f:metadata")).get("f:annotations"))
            for each in (fields, template)
        )
        (owners if owned else others).append((str(entry.get("time", "")), manager))
    writers = owners or (others if removed else [])
    return max(writers)[1] if writers else None
