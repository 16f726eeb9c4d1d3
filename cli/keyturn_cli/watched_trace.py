"""Trace of a watched Secret: its last change, and how far its consumers have come.

No event of AWS tells of such a change. Its time, and a revision of each key, are in the annotation that the receiver
keeps on the Secret (docs/rollouts.md#secrets-that-others-fill). The annotation is shown as it is: only the receiver can
check that nobody else has written it.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from keyturn_cli.advice import advised, chosen
from keyturn_cli.bound_secrets import Bound
from keyturn_cli.cluster import METADATA, Cluster, path
from keyturn_cli.errors import CliError
from keyturn_cli.legs import APPLIED, BAD, GOOD, Leg, Trace
from keyturn_cli.rotation import Place, Stage, consumers_of
from keyturn_cli.sight import Sight
from keyturn_cli.watched_secrets import why_nobody
from keyturn_cli.words import counted
from keyturn_cli.workload_legs import add_workload, warnings
from keyturn_cli.workload_stage import place_of
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.consumer import Consumer, mark_name
from keyturn_receiver.core.field_owners import MANAGERS, WATCH_MANAGER, managed_fields, owned
from keyturn_receiver.core.json_access import as_object
from keyturn_receiver.core.mark import has_mark_of
from keyturn_receiver.core.revision import OK, Record
from keyturn_receiver.core.rollout import written_at
from keyturn_receiver.core.unsettled import read_unsettled
from keyturn_receiver.core.watched import MAX_KEPT, WATCHED
from keyturn_receiver.core.write_times import REMOVED, parse_time, read_times, resolve, rfc3339

_PREFIX = re.compile(r"w[0-9a-f]{8}\.")  # the beginning of the marks for watched Secrets
_NO_PREFIX = "w."  # no mark begins with it


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a watched Secret shows of its changes.

    ``record`` has what the annotation of the receiver says. It is None if the annotation is missing, or cannot be read.
    ``last_write`` is the time at which somebody other than Keyturn last wrote data, in seconds since 1970, and
    ``kept_at`` the time at which the receiver last wrote the annotation. Each time is None if it is not known.
    ``writer`` is the field manager that last wrote data, or an empty text.
    """

    record: Record | None = None
    last_write: int | None = None
    kept_at: int | None = None
    writer: str = ""


def trace_watched(sight: Sight, watched: Bound) -> Trace:
    """Return the legs of the last change of a watched Secret.

    Raises CliError if the Secret has so many keys that the annotation has no revisions, and the errors of ``Cluster``.
    """
    name, made = f"Secret {watched.target}", Trace("none")
    seen = _read(sight.cluster, watched.target)
    refusal = why_nobody(watched, sight.settings)
    if refusal or seen.record is None:
        made.open_secrets = 1
        advice = f"no receiver has recorded its values yet: run {advised('doctor')}"
        made.legs.append(Leg(None, BAD, f"{name}  {refusal or advice}", APPLIED))
        return made
    consumers = consumers_of(watched, sight.consumers(watched.target.namespace))
    record = _with_prefix(seen.record, watched.target.name, consumers)
    bound, changed_at = replace(watched, record=record), record.changed_at
    made.version = record.digest[:8]
    if changed_at is None:
        made.legs.append(Leg(None, GOOD, f"{name}  no change of its values is recorded", APPLIED))
    else:
        made.cause = f"field manager {seen.writer}" if seen.last_write == changed_at else ""
        made.legs.append(Leg(float(changed_at), GOOD, f"{name} changed{_changed_keys(record, changed_at)}", APPLIED))
    for consumer in consumers:
        place = place_of(sight, consumer, bound)
        if _concerns(consumer, bound, place):
            add_workload(sight, consumer, bound, place, made)
    if changed_at is not None:
        made.legs += warnings(sight, bound, changed_at)
    if seen.last_write is not None and seen.kept_at is not None and seen.last_write > seen.kept_at:
        sight.notes[
            f"{name} was written at {rfc3339(seen.last_write)}, after the last change that Keyturn has recorded: either"
            f" no value changed then, or no receiver has seen it yet ({advised('doctor')})"
        ] = None
    made.legs.sort(key=lambda leg: leg.place)
    return made


def _read(cluster: Cluster, target: Target) -> Recorded:
    obj = cluster.get(path("v1", "secrets", target.namespace, target.name), accept=METADATA)
    metadata = as_object(obj.get("metadata"))
    kept_at: int | None = None
    writes: list[tuple[int, str]] = []
    for entry in managed_fields(metadata):
        at, manager = parse_time(entry.get("time")), str(entry.get("manager", ""))
        if manager == WATCH_MANAGER:
            kept_at = at
        elif at is not None and manager not in MANAGERS and owned(as_object(entry.get("fieldsV1")), "data"):
            writes.append((at, manager))
    last_write, writer = max(writes, default=(None, ""))
    return Recorded(_record(metadata, target), last_write, kept_at, writer)


def _record(metadata: Mapping[str, Any], target: Target) -> Record | None:
    text = str(as_object(metadata.get("annotations")).get(WATCHED, ""))
    try:
        body = as_object(json.loads(text)) if len(text) <= 2 * MAX_KEPT else {}
    except (ValueError, RecursionError):
        return None
    if "revisions" in body and body["revisions"] is None:
        raise CliError(
            f"Secret {target} has so many keys that Keyturn keeps no revisions of them, so its legs are not known",
            f"see {advised('explain', target)}, and"
            f" {chosen().kubectl(f'events --for secret/{target.name} -n {target.namespace}')}",
        )
    revisions = {key: str(each) for key, each in as_object(body.get("revisions")).items()}
    if not revisions:
        return None
    changed_at = resolve(json.dumps(body.get("changed-at")), WATCH_MANAGER, managed_fields(metadata))
    until = body.get("unknown-until")
    return Record(
        revisions=revisions,
        status=OK,
        write_times=read_times(changed_at, revisions),
        unknown_until=until if isinstance(until, int) else None,
        unsettled=read_unsettled(str(body.get("unsettled", ""))),
    )


def _with_prefix(record: Record, name: str, consumers: Iterable[Consumer]) -> Record:
    """Return the record with the prefix of its marks.

    Only the receiver can make the prefix. So the prefix is taken from the marks of the consumers. It is the prefix of
    the consumers that are up to date. If no consumer is up to date, it is the most frequent prefix.
    """
    mark = mark_name(name)
    prefixes: Counter[str] = Counter()
    for consumer in consumers:
        for text in (consumer.baseline.get(mark, ""), consumer.marks.get(mark, "")):
            if found := _PREFIX.match(text):
                candidate = replace(record, mark_prefix=found[0])
                prefixes[found[0]] += 1000 if has_mark_of(consumer, name, candidate) else 1
    ((prefix, _),) = prefixes.most_common(1) or [(_NO_PREFIX, 0)]
    return replace(record, mark_prefix=prefix)


def _changed_keys(record: Record, at: int) -> str:
    changed = [key for key, time in record.write_times.items() if time.at == at]
    keys, removed = sum(key != REMOVED for key in changed), REMOVED in changed
    return (f", {counted(keys, 'key')}" if keys else "") + (", keys removed" if removed else "")


def _concerns(consumer: Consumer, bound: Bound, place: Place) -> bool:
    """Return whether the legs of a workload belong to the last change. They do if the workload reads a key that changed
    then, or if its stage is neither LIVE nor OFF."""
    name, record = bound.target.name, bound.record
    reads, mark = consumer.reads[name], mark_name(name)
    has_mark = mark in consumer.baseline or mark in consumer.marks
    if not has_mark and not reads.whole and reads.keys.isdisjoint(record.revisions):
        return False  # the workload waits for keys that the Secret has never had
    if place.stage in (Stage.LIVE, Stage.OFF):
        return record.changed_at is not None and written_at(consumer, name, record) == record.changed_at
    return True
