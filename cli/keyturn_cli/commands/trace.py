"""`keyturn trace`: shows the last rotation, leg by leg."""

import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from keyturn_cli import receipts
from keyturn_cli.advice import not_looked_at
from keyturn_cli.aws import Aws
from keyturn_cli.aws_secrets import version_at
from keyturn_cli.bound_secrets import Bound, list_bound
from keyturn_cli.cluster import Cluster
from keyturn_cli.completion import complete_subjects
from keyturn_cli.errors import CliError, ExitCode, NotFound, UsageError, reported
from keyturn_cli.legs import APPLIED, BAD, GOOD, MOVED, OPEN, Leg, Trace
from keyturn_cli.options import (
    DEFAULT_RELEASE,
    Context,
    LogGroup,
    Namespace,
    NoColor,
    OutputFormat,
    Release,
    ReleaseName,
    read_release,
)
from keyturn_cli.output import Format, Output
from keyturn_cli.receipt_legs import add_receipts
from keyturn_cli.release import settings_of
from keyturn_cli.rotation import consumers_of
from keyturn_cli.sight import Sight
from keyturn_cli.subjects import Subject, find_subject, list_allowed
from keyturn_cli.times import duration, seconds_of
from keyturn_cli.watched_trace import trace_watched
from keyturn_cli.words import counted
from keyturn_cli.workload_legs import add_workload, warnings
from keyturn_cli.workload_stage import place_of
from keyturn_receiver.core.arn import region
from keyturn_receiver.core.binding import is_secret_id
from keyturn_receiver.core.history import HISTORY, Change, read_history
from keyturn_receiver.core.revision import OK
from keyturn_receiver.core.write_times import rfc3339

SUBJECT = Annotated[
    str,
    typer.Argument(
        metavar="SECRET-ID|EVENT-ID|NS/NAME",
        help="An AWS secret, an event of EventBridge, or one Secret.",
        autocompletion=complete_subjects,
    ),
]
AWS = Annotated[bool, typer.Option("--aws", help="Add what the receipts in AWS tell.")]
_STYLES = {GOOD: "green", BAD: "red", OPEN: "yellow"}


@reported
def trace(
    subject: SUBJECT,
    context: Context = None,
    namespace: Namespace = None,
    release: ReleaseName = DEFAULT_RELEASE,
    aws: AWS = False,
    log_group: LogGroup = receipts.LOG_GROUP,
    output: OutputFormat = Format.TABLE,
    no_color: NoColor = False,
) -> ExitCode:
    """Show the way of the last rotation, leg by leg.

    The legs: label moved, Secrets filled, workloads marked, pods ready. An event's id finds the Secrets that it
    changed; the legs are those of their last change. Times have milliseconds where Keyturn wrote
    them, and whole seconds where AWS or Kubernetes tells no more. With --aws it adds the answers of all receivers; it
    then works without a cluster, too. The exit code is 1 if a Secret, a workload or a cluster has not been reached.

    A Secret that others fill has the legs of its last change: values changed, workloads marked, pods ready.
    """
    out = Output(output, no_color)
    named = read_release(release)
    if log_group != receipts.LOG_GROUP and not aws:
        raise UsageError("--log-group is about receipts", "give --aws, too, or leave it out")
    notes: dict[str, None] = {}

    def look() -> tuple[Subject, Trace]:
        return _in_cluster(Cluster.connect(context), subject, namespace, named, notes)

    found, made = _with_aws(look, subject, log_group, notes) if aws else look()
    if out.is_data:
        out.data(_data(found, made, list(notes)))
    else:
        _show(out, found, made)
        out.notes(notes)
    return ExitCode.FINDING if made.is_open else ExitCode.FINE


def _in_cluster(
    cluster: Cluster, subject: str, namespace: str | None, release: Release, notes: dict[str, None]
) -> tuple[Subject, Trace]:
    """Return the subject and the legs that one cluster tells. Adds to ``notes``."""
    by_event = _by_event(cluster, subject, namespace)
    found = by_event or find_subject(cluster, subject, namespace, with_watched=True)
    later = changed_since(by_event, subject) if by_event else ""
    settings, note = settings_of(cluster, release)
    notes |= dict.fromkeys(filter(None, (later, found.note, note)))
    sight = Sight(cluster, settings, notes)
    made = trace_watched(sight, found.bound[0]) if found.is_watched else _trace(sight, found)
    made.hides_workloads = sight.hides_workloads
    return found, made


def _with_aws(
    look: Callable[[], tuple[Subject, Trace]], text: str, group: str, notes: dict[str, None]
) -> tuple[Subject, Trace]:
    """Return the subject and the legs that ``look`` finds in the cluster, with the legs that the receipts tell.

    If ``look`` fails, ``text`` is taken as the name or ARN of an AWS secret, and a note says why the legs in the
    cluster are left out. But if ``text`` cannot be one, or if ``look`` raises UsageError, this function raises the same
    error. Raises UsageError for a watched Secret, and the errors of ``_with_receipts``.
    """
    made: Trace | None
    try:
        found, made = look()
    except UsageError:
        raise
    except CliError as error:
        if not is_secret_id(text):
            raise
        found, made = Subject(text, [], text), None
        notes[f"the legs in the cluster are left out: {error}"] = None
    if found.is_watched:
        raise UsageError(f"{found.name} is not filled from AWS, so no receipt is about it", "leave out --aws")
    return found, _with_receipts(found, made, group, notes)


def _with_receipts(found: Subject, made: Trace | None, group: str, notes: dict[str, None]) -> Trace:
    """Return the legs in ``made``, and the legs that the receipts tell about the version that is AWSCURRENT.

    If no Secret has this version, the legs in ``made`` belong to another version. They are then replaced by a leg for
    each Secret, which says what version the Secret has. If no receipt tells anything, a note says so. Raises CliError
    if neither the cluster nor a receipt tells anything.
    """
    secret_id = found.only_secret_id("name the AWS secret")
    version = version_at(secret_id, found.region, instead="")
    logs = Aws().client("logs", region(secret_id) or found.region)
    told = list(receipts.read_receipts(logs, group, (secret_id, version), time.time() - receipts.LOOK_BACK))
    none = f"no receipt of the last 7 days is about version {version[:8]}, which is AWSCURRENT"
    advice = f"the stack needs Receipts=true, and infra/aws/receipts.yaml the log group {group} (docs/receipts.md)"
    if not told and made is None:
        raise CliError(none, advice)
    if made is None or not any(version in bound.versions_of(secret_id) for bound in found.bound):
        made = Trace(version[:8])
        for bound in found.bound:
            has = ", ".join(each[:8] for each in sorted(bound.versions_of(secret_id))) or "no version"
            made.legs.append(Leg(None, OPEN, f"Secret {bound.target} has {has}", APPLIED))
            made.open_secrets += 1
    if told:
        add_receipts(made, told)
    else:
        notes[f"{none}: {advice}"] = None
    return made


def _by_event(cluster: Cluster, text: str, namespace: str | None) -> Subject | None:
    """Return the Secrets that an event has changed, or None if ``text`` is not the id of an event. Raises NotFound if
    no Secret remembers the event."""
    if len(text) != 36 or text.count("-") != 4:
        return None
    listed, note = (list_bound(cluster, namespace), "") if namespace else list_allowed(cluster)
    changed = [each for each in listed if any(change.event == text for change in _history(each))]
    if not changed:
        raise NotFound(
            f"no Secret remembers the event {text}" + (f" ({note})" if note else ""),
            "it may have changed nothing, or be older than the last five changes: ask the notifier's log",
        )
    return Subject(f"event {text}", changed, note=note)


def changed_since(found: Subject, event: str) -> str:
    """Return a note if a Secret has changed again since an event, or else an empty text. The note is needed because the
    trace shows the Secret's last change and not the change by the event."""
    older = [
        f"Secret {bound.target} had version {change.version[:8]} from it at {change.at}"
        for bound in found.bound
        for number, change in enumerate(_history(bound))
        if change.event == event and number
    ]
    if not older:
        return ""
    return f"this is the last change, and event {event} is an older one: {', '.join(older)}"


def _history(bound: Bound) -> tuple[Change, ...]:
    return read_history(bound.annotations.get(HISTORY))


def _change(bound: Bound) -> Change | None:
    """Return the newest change in the history, or None if the Secret does not have the version of this change."""
    newest = next(iter(_history(bound)), None)
    # If a Secret has several versions, the history has only a digest of them, which is not compared.
    versions = bound.version_ids
    return newest if newest and (len(versions) > 1 or newest.version in versions) else None


def _trace(sight: Sight, found: Subject) -> Trace:
    # The Secret that was written last has the newest version.
    newest = max(found.bound, key=lambda each: _applied(each) or 0.0)
    version = ", ".join(each[:8] for each in newest.version_ids) or "none"
    made = Trace(version)
    change = _change(newest)
    if change:
        made.event, made.cause = change.event, change.cause
    moved_at = seconds_of(change.moved_at) if change and change.moved_at else newest.record.moved_at
    if moved_at is not None:
        made.moved_at = float(moved_at)
        made.legs.append(Leg(made.moved_at, "", "label moved", MOVED))
    for bound in found.bound:
        _trace_secret(sight, bound, made)
    made.legs.sort(key=lambda leg: leg.place)
    return made


def _applied(bound: Bound) -> float | None:
    change = _change(bound)
    return seconds_of(change.at) if change else seconds_of(bound.applied_at)


def _trace_secret(sight: Sight, bound: Bound, made: Trace) -> None:
    change, name = _change(bound), f"Secret {bound.target}"
    if bound.record.status != OK:
        made.open_secrets += 1
        status = bound.record.status or not_looked_at()
        made.legs.append(Leg(None, BAD, f"{name}  {status}", APPLIED))
        return
    keys = f", {counted(change.keys, 'key')}" if change else ""
    made.legs.append(Leg(_applied(bound), GOOD, f"{name} applied{keys}", APPLIED, exact=change is not None))
    for consumer in consumers_of(bound, sight.consumers(bound.target.namespace)):
        add_workload(sight, consumer, bound, place_of(sight, consumer, bound), made)
    made.legs += warnings(sight, bound, made.moved_at or _applied(bound) or 0.0)


def _show(out: Output, found: Subject, made: Trace) -> None:
    started = made.moved_at or next((leg.at for leg in made.legs if leg.at is not None), None)
    head = f"{found.name}  {'change' if found.is_watched else 'version'} {made.version}"
    if made.moved_at:
        head += f"  label moved {rfc3339(int(made.moved_at))}"
    if made.cause:
        head += f"  by {made.cause}" + (f" {made.event}" if made.event else "")
    out.line(head, "bold")
    for leg in made.legs:
        out.hanging(_offset(leg, started), f"{leg.sign or ' '} {leg.text}", _STYLES.get(leg.sign, ""))
    if made.is_open or started is not None or not found.is_watched:
        out.line(_summary(made, started))


def _offset(leg: Leg, started: float | None) -> str:
    if leg.at is None or started is None:
        return " " * 11
    seconds = max(0.0, leg.at - started)
    return f"{seconds:8.1f} s " if leg.exact else f"{seconds:6.0f}   s "


def _summary(made: Trace, started: float | None) -> str:
    times = [leg.at for leg in made.legs if leg.at is not None and leg.sign != BAD]
    took = f"{duration(max(times) - started)}" if times and started is not None else "?"
    left = []
    if made.open_secrets:
        left.append(counted(made.open_secrets, "Secret"))
    if made.open_workloads:
        left.append(counted(made.open_workloads, "workload"))
    if made.open_clusters:
        left.append(counted(made.open_clusters, "cluster"))
    summary = f"live in {took}, except: {', '.join(left)}" if left else f"live in {took}"
    if made.hides_workloads:
        summary += ", as far as you may list the workloads"
    if not made.off_workloads:
        return summary
    return f"{summary}; not restarted: {counted(made.off_workloads, 'workload')}, whose pods may have the old value"


def _data(found: Subject, made: Trace, notes: Sequence[str]) -> dict[str, Any]:
    return {
        "subject": found.name,
        "version": None if found.is_watched else made.version,
        "change": made.version if found.is_watched else None,
        "movedAt": None if made.moved_at is None else rfc3339(int(made.moved_at)),
        "event": made.event or None,
        "cause": made.cause or None,
        "legs": [{"at": leg.at, "sign": leg.sign or None, "text": leg.text} for leg in made.legs],
        "openSecrets": made.open_secrets,
        "openWorkloads": made.open_workloads,
        "openClusters": made.open_clusters,
        "notes": list(notes),
    }
