"""History: the last changes of a bound Secret's values, in one annotation of the Secret.

The history is only for people and for the tools that show it. No decision depends on it. It is not part of the record,
and it holds no secret value. If the annotation is lost or garbled, the history starts again with the next change.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from keyturn_receiver.core.write_times import parse_time

HISTORY = "keyturn.dev/history"
MAX_CHANGES = 5
MAX_BYTES = 1200  # the annotation has at most this many bytes; it is ASCII

_MAX_COUNT = 1_000_000
# A version id has 32 to 64 characters:
# https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_PutSecretValue.html
_ID = re.compile(r"[!#-\[\]-~]{0,64}")  # printable, without spaces and without characters that JSON has to escape
_CAUSE = re.compile(r"[a-z_]{0,20}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z")


@dataclass(frozen=True, slots=True)
class Change:
    """One write that changed values of a bound Secret.

    ``at`` is the time of the write, by the receiver's clock (RFC 3339 in UTC, with milliseconds). ``version`` is the
    version id that the Secret was made from. ``was`` is the version id before the write, and is empty for the first
    write. If the Secret is made from several AWS secrets, ``version`` and ``was`` are compound versions
    (``revision.compound_version``). ``moved_at`` is the time at which the staging label moved to the version, by AWS's
    clock (RFC 3339 in UTC, whole seconds). ``cause`` is the cause of the reconcile, such as "notification" or "poll".
    ``event`` is the id of the EventBridge event. ``moved_at`` and ``event`` are empty if they are not known. ``keys``
    is the number of keys whose value was written or removed. ``due`` is the number of consumers that were due for a
    restart because of the write.
    """

    at: str
    version: str = ""
    was: str = ""
    moved_at: str = ""
    cause: str = ""
    event: str = ""
    keys: int = 0
    due: int = 0


def stamp(at: datetime) -> str:
    """Return a time in the format of ``Change.at``."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read_history(text: str | None) -> tuple[Change, ...]:
    """Parse the annotation. Return the last changes, newest first.

    The result is empty if the annotation is missing or garbled, or if it is longer than MAX_BYTES. Unknown fields are
    ignored, because a newer release may have written them.
    """
    if not text or len(text) > MAX_BYTES:
        return ()
    try:
        entries = json.loads(text)
        if not isinstance(entries, list):
            return ()
        changes: list[Change] = []
        for entry in reversed(entries[:MAX_CHANGES]):
            changes.append(_read_change(entry, changes[-1].version if changes else ""))
    except (ValueError, RecursionError):
        return ()
    return tuple(reversed(changes))


def kept_history(text: str | None) -> str:
    """Return the annotation for a write that changes no value. The result is empty if there is no readable history."""
    return _write_history(read_history(text))


def add(text: str | None, change: Change) -> str:
    """Return the annotation with one more change as its first entry.

    The annotation has at most MAX_CHANGES changes and at most MAX_BYTES bytes. The oldest changes are dropped. Of
    consecutive changes without a new version, only the last is kept. Otherwise the repairs after another writer's
    repeated edits would push the rotations out of the annotation. An id that the annotation cannot hold is left out.
    """
    change = replace(
        change,
        version=_id(change.version),
        was=_id(change.was),
        event=_id(change.event),
        keys=min(change.keys, _MAX_COUNT),
        due=min(change.due, _MAX_COUNT),
    )
    older = read_history(text)
    if older and change.version == change.was == older[0].version == older[0].was:
        older = older[1:]
    return _write_history((change, *older)[:MAX_CHANGES])


def _id(text: str) -> str:
    return text if _ID.fullmatch(text) else ""


def _write_history(changes: tuple[Change, ...]) -> str:
    while changes:
        text = json.dumps(list(_entries(changes)), separators=(",", ":"))
        if len(text) <= MAX_BYTES:
            return text
        changes = changes[:-1]
    return ""


def _entries(changes: tuple[Change, ...]) -> Iterable[dict[str, str | int]]:
    """Yield the JSON object of each change. ``was`` is left out if it equals the version of the next entry, so that
    five entries fit."""
    for number, change in enumerate(changes):
        before = changes[number + 1].version if number + 1 < len(changes) else ""
        yield {
            "at": change.at,
            "version": change.version,
            **({"was": change.was} if change.was != before else {}),
            **({"moved": change.moved_at} if change.moved_at else {}),
            **({"cause": change.cause} if change.cause else {}),
            **({"event": change.event} if change.event else {}),
            "keys": change.keys,
            "due": change.due,
        }


def _read_change(entry: object, before: str) -> Change:
    """Parse one entry. ``before`` is the version of the next older entry. Raises ValueError if the entry is garbled."""
    if not isinstance(entry, dict):
        raise ValueError("an entry of the history has to be an object")
    moved_at = _text(entry, "moved", _TIME) if "moved" in entry else ""
    return Change(
        at=_time(_text(entry, "at", _TIME)),
        version=_text(entry, "version", _ID),
        was=_text(entry, "was", _ID, before),
        moved_at=_time(moved_at) if moved_at else "",
        cause=_text(entry, "cause", _CAUSE, ""),
        event=_text(entry, "event", _ID, ""),
        keys=_count(entry, "keys"),
        due=_count(entry, "due"),
    )


def _text(entry: dict[str, object], name: str, pattern: re.Pattern[str], default: str | None = None) -> str:
    text = entry.get(name, default)
    if not isinstance(text, str) or not pattern.fullmatch(text):
        raise ValueError(f"{name} of the history is not as Keyturn writes it")
    return text


def _time(text: str) -> str:
    if parse_time(text) is None:
        raise ValueError("a time of the history is not as Keyturn writes it")
    return text


def _count(entry: dict[str, object], name: str) -> int:
    count = entry.get(name)
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= _MAX_COUNT:
        raise ValueError(f"{name} of the history is not as Keyturn writes it")
    return count
