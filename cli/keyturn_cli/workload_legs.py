"""Legs of the workloads that read a Secret: marked, pods ready. Also the legs of the warnings about the Secret."""

from collections.abc import Iterator

from keyturn_cli.bound_secrets import Bound
from keyturn_cli.cluster import path
from keyturn_cli.errors import Forbidden
from keyturn_cli.legs import BAD, GOOD, MARKED, NEVER, OPEN, READY, TOLD, Leg, Trace
from keyturn_cli.rotation import Place, Stage
from keyturn_cli.sight import Sight
from keyturn_cli.times import seconds_of
from keyturn_receiver.core.consumer import Consumer, mark_name
from keyturn_receiver.core.json_access import as_object
from keyturn_receiver.core.mark import present_mark

SIGNS = {Stage.LIVE: GOOD, Stage.FAILED: BAD, Stage.OFF: NEVER}  # workloads in other stages have the sign OPEN
MAX_EVENTS = 20  # at most this many warnings are shown for one Secret


def add_workload(sight: Sight, consumer: Consumer, bound: Bound, place: Place, made: Trace) -> None:
    """Add the legs of one workload to a trace."""
    made.legs += _legs(sight, consumer, bound, place)
    made.open_workloads += place.stage in (Stage.WAITING, Stage.ROLLING, Stage.HELD, Stage.FAILED)
    made.off_workloads += place.stage is Stage.OFF


def warnings(sight: Sight, bound: Bound, since: float) -> Iterator[Leg]:
    """Yield a leg for each Event of type Warning about a Secret from ``since`` on, a time in seconds since 1970."""
    target = bound.target
    query = {"fieldSelector": f"involvedObject.kind=Secret,involvedObject.name={target.name},type=Warning"}
    try:
        events = list(sight.cluster.list(path("v1", "events", target.namespace), query))
    except Forbidden:
        sight.notes[f"you may not list the events of namespace {target.namespace}: warnings are left out"] = None
        return
    for event in events[-MAX_EVENTS:]:
        metadata = as_object(event.get("metadata"))
        at = seconds_of(str(event.get("lastTimestamp") or event.get("eventTime") or metadata.get("creationTimestamp")))
        if at is not None and at >= int(since):
            yield Leg(at, BAD, f"Secret {target}  {event.get('reason')}: {event.get('message')}", TOLD)


def _legs(sight: Sight, consumer: Consumer, bound: Bound, place: Place) -> Iterator[Leg]:
    name, mark = place.name, present_mark(consumer, bound.target.name, bound.record)
    if mark is None or place.stage in (Stage.OFF, Stage.WAITING):
        if place.stage is not Stage.LIVE:
            yield Leg(None, SIGNS.get(place.stage, OPEN), f"{name}  {place.why}", READY)
        return
    progress = consumer.progress
    if progress and progress.marked_at is not None:
        yield Leg(float(progress.marked_at), "", f"{name} marked", MARKED)
    ready: list[int] = []
    for pod in sight.pods(consumer) or ():
        if pod.marks.get(mark_name(bound.target.name)) == mark and pod.ready_at is not None:
            ready.append(pod.ready_at)
    wanted = progress.wanted if progress else len(ready)
    done = f"{name} {len(ready)}/{wanted} pods ready with it" if ready else f"{name}  {place.why or place.stage}"
    told = f"; {place.why}" if place.stage in (Stage.HELD, Stage.FAILED) and ready else ""
    finished = max(ready) if ready else progress.finished_at if progress else None
    yield Leg(None if finished is None else float(finished), SIGNS.get(place.stage, OPEN), done + told, READY)
