"""Watched Secrets. Another controller or a person fills them, and Keyturn restarts their consumers. Only their metadata
is read here. Their keys are the keys that the managed fields name.

docs/rollouts.md#secrets-that-others-fill
"""

from collections.abc import Mapping
from typing import Any

from keyturn_cli.bound_secrets import Bound
from keyturn_cli.cluster import METADATA, Cluster, path
from keyturn_cli.prediction import NEW_VERSION, Change
from keyturn_cli.release import Settings
from keyturn_receiver.core.binding import Target, is_bound
from keyturn_receiver.core.field_owners import managed_fields, owned
from keyturn_receiver.core.json_access import as_object
from keyturn_receiver.core.revision import Record
from keyturn_receiver.core.watched import has_watch_label, watch_fault, watch_spec
from keyturn_receiver.core.write_times import next_times

PRESENT = "present"  # in place of a revision, which only the receiver can make


def fault_of(metadata: Mapping[str, Any]) -> str:
    """Return the reason why the consumers of a Secret with the watch label are not restarted, or an empty text. The
    text begins with the reason in the receiver's Event."""
    if fault := watch_fault(metadata, len(_keys(metadata))):
        return f"NotWatched: {fault}"
    faults = watch_spec(metadata).rollout_faults
    return f"InvalidBinding: {faults[0]}; no pod is restarted until then" if faults else ""


def is_watched(metadata: Mapping[str, Any]) -> bool:
    """Return whether a Secret has the watch label and is not bound. The label's value may be misspelt."""
    return has_watch_label(metadata) and not is_bound(metadata)


def get_watched(cluster: Cluster, target: Target) -> Bound | None:
    """Return a watched Secret in the form of a bound one, or None if it is not watched. Its record has no version.

    Raises NotFound, and the other errors of ``Cluster``.
    """
    metadata = as_object(cluster.get(path("v1", "secrets", target.namespace, target.name), accept=METADATA)["metadata"])
    if not is_watched(metadata):
        return None
    keys = _keys(metadata)
    return Bound(
        target=target,
        uid=str(metadata.get("uid")),
        annotations={name: str(text) for name, text in as_object(metadata.get("annotations")).items()},
        spec=watch_spec(metadata),
        record=Record(revisions=dict.fromkeys(keys, PRESENT), status=fault_of(metadata)),
        keys=keys,
        is_watched=True,
    )


def _keys(metadata: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(key for each in managed_fields(metadata) for key in owned(as_object(each.get("fieldsV1")), "data"))


def supposed_change(watched: Bound, settings: Settings) -> Change:
    """Return the change under the assumption that every key gets another value. ``error`` is the reason why the
    consumers of the Secret are not restarted, or an empty text."""
    error = why_nobody(watched, settings)
    if error:
        return Change(error=error, present=watched.keys)
    before, keys = watched.record.revisions, tuple(sorted(watched.keys))
    after = Record(
        revisions=dict.fromkeys(keys, NEW_VERSION), write_times=next_times({}, keys, keys, (), removed=False)
    )
    return Change(before, after, keys, watched.keys)


def why_nobody(watched: Bound, settings: Settings) -> str:
    """Return the reason why the consumers of a watched Secret are not restarted, or an empty text."""
    if settings.namespaces and watched.target.namespace not in settings.namespaces:
        return f"the receiver does not serve namespace {watched.target.namespace} (chart value namespaces)"
    if not settings.watch_secrets:
        return "the receiver watches no Secret that others fill (chart value rollouts.watchSecrets)"
    if not watched.keys and not watched.record.status:
        return "no key of it is known: it is empty, or its managed fields have been removed"
    return watched.record.status
