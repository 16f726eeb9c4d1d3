"""What a reconcile has done, in words for people: Events and logs."""

from collections.abc import Sequence

from keyturn_receiver.core.binding import Binding
from keyturn_receiver.core.consumer import Consumer
from keyturn_receiver.core.revision import Record


def applied(record: Record, changed_keys: str, restarted: Sequence[Consumer]) -> str:
    """Tell which keys were written from which versions, and who is restarted for it; ``changed_keys`` as ``keys``."""
    told = []
    if changed_keys:
        versions = ", ".join(sorted(record.version_ids.values()))
        told.append(f"wrote {changed_keys} from version {versions}")
    if pods := [f"{consumer.ref.kind} {consumer.ref.name}" for consumer in restarted if not consumer.manual]:
        told.append(f"restarting {_few(pods)}")
    if pods := [f"{consumer.ref.kind} {consumer.ref.name}" for consumer in restarted if consumer.manual]:
        told.append(f"{_few(pods)} updates only OnDelete: delete its pods to restart them")
    return "; ".join(told)


def keys(binding: Binding, changed: Sequence[str]) -> str:
    """Name the keys that the binding names, and count the others: what AWS's JSON calls them is part of the value."""
    entries = {entry.key for entry in binding.entries}
    named = [key for key in changed if key in entries]
    others = len(changed) - len(named)
    counted = f"{others} {'more ' if named else ''}{'key' if others == 1 else 'keys'}"
    return " and ".join(([_few(named)] if named else []) + ([counted] if others else []))


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
