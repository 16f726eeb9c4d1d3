"""`keyturn wait`: waits until a version of an AWS secret has arrived, for CI."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import typer

from keyturn_cli import receipts
from keyturn_cli.aws import Aws
from keyturn_cli.aws_secrets import version_at
from keyturn_cli.bound_secrets import Bound, get_bound
from keyturn_cli.cluster import Cluster
from keyturn_cli.errors import ExitCode, NotFound, RolloutFailed, TimedOut, UsageError, reported
from keyturn_cli.options import (
    DEFAULT_RELEASE,
    Contexts,
    Namespace,
    NoColor,
    OutputFormat,
    Release,
    ReleaseName,
    read_release,
)
from keyturn_cli.output import Format, Output
from keyturn_cli.release import Settings, settings_of
from keyturn_cli.rotation import Place, Stage, consumers_of, has_current, secret_place, workload_place
from keyturn_cli.sight import Sight
from keyturn_cli.subjects import Subject, find_subject
from keyturn_cli.times import duration, read_duration
from keyturn_receiver.core.arn import region

TICK = 1.0  # seconds between two looks


class Goal(StrEnum):
    """What is waited for."""

    APPLIED = "applied"
    LIVE = "live"


SUBJECT = Annotated[str, typer.Argument(metavar="SECRET-ID|NS/NAME", help="An AWS secret, or one Secret.")]
VERSION = Annotated[
    str | None, typer.Option("--version", metavar="ID", help="Version id. [default: AWS is asked for AWSCURRENT]")
]
GOAL = Annotated[
    Goal, typer.Option("--for", help="applied: the Secrets have it; live: all pods that Keyturn restarts run it.")
]
AWS = Annotated[bool, typer.Option("--aws", help="Ask the receipts in AWS instead of the cluster.")]
LOG_GROUP = Annotated[str, typer.Option("--log-group", metavar="NAME", help="Log group of the receipts.")]
TIMEOUT = Annotated[str, typer.Option("--timeout", metavar="TIME", help="Such as 90s, 5m or 1h.")]


@dataclass(slots=True)
class Watched:
    """The Secrets of one cluster that are waited for."""

    cluster: Cluster
    subject: Subject
    settings: Settings

    def look(self, version: str, goal: Goal) -> list[Place]:
        """Return how far each Secret, and each workload if ``goal`` is LIVE, has come."""
        places: list[Place] = []
        sight = Sight(self.cluster, self.settings)  # read again at each look
        for before in self.subject.bound:
            bound = self._read(before)
            if bound is None or not has_current(bound, self.subject.secret_id):
                continue
            place = secret_place(bound, self.subject.secret_id, version)
            places.append(place)
            if goal is Goal.LIVE and place.stage is Stage.APPLIED:
                places += _workload_places(sight, bound)
        return places

    def _read(self, before: Bound) -> Bound | None:
        try:
            return get_bound(self.cluster, before.target)
        except NotFound:
            return None


@reported
def wait(
    subject: SUBJECT,
    version: VERSION = None,
    goal: GOAL = Goal.APPLIED,
    timeout: TIMEOUT = "5m",
    context: Contexts = None,
    namespace: Namespace = None,
    release: ReleaseName = DEFAULT_RELEASE,
    aws: AWS = False,
    log_group: LOG_GROUP = receipts.LOG_GROUP,
    output: OutputFormat = Format.TABLE,
    no_color: NoColor = False,
) -> ExitCode:
    """Wait until a version has arrived in every Secret, or pod.

    It waits in one or several clusters. With --aws, it needs no cluster, but the right to logs:FilterLogEvents
    (docs/receipts.md). The exit code is 3 after the time-out, 4 if the rollout of a workload has failed, and 1 if a
    workload keeps pods with the old value by a setting of its own.
    """
    out = Output(output, no_color)
    seconds = read_duration(timeout)
    if seconds is None:
        raise UsageError(f"--timeout {timeout} is no duration", "write, for example, 90s, 5m or 1h")
    if aws:
        if context or namespace:
            raise UsageError("--aws asks no cluster", "leave out --context and --namespace")
        logs = Aws().client("logs", region(subject) or "")
        return receipts.await_version(out, logs, version or version_at(subject), goal, seconds, group=log_group)
    return wait_for(out, subject, version, goal, seconds, context or [None], namespace, read_release(release))


def wait_for(
    out: Output,
    subject: str,
    version: str | None,
    goal: Goal,
    seconds: float,
    contexts: Sequence[str | None],
    namespace: str | None,
    release: Release,
) -> ExitCode:
    """Wait, and tell how it ended. Raises TimedOut, RolloutFailed and the errors of ``find_subject``."""
    started = time.monotonic()
    watched = [_watched(Cluster.connect(context), subject, namespace, release) for context in contexts]
    if version is None:
        found = watched[0].subject
        version = version_at(found.only_secret_id("name one, or give --version ID"), found.region)
    with _progress(out) as tell:
        while True:
            looks = [(each.cluster.context, each.look(version, goal)) for each in watched]
            places = [(name, place) for name, found in looks for place in found]
            if failed := [each for each in places if each[1].stage is Stage.FAILED]:
                raise RolloutFailed(
                    f"version {version[:8]}: {_told(failed)}", "see its pods: kubectl describe; keyturn trace"
                )
            open_places = [each for each in places if each[1].stage in (Stage.WAITING, Stage.FAILING, Stage.ROLLING)]
            spent = time.monotonic() - started
            if not open_places:
                return _ended(out, subject, version, goal, places, spent)
            if spent >= seconds:
                raise TimedOut(
                    f"version {version[:8]} has not arrived within {duration(seconds)}: {_told(open_places)}",
                    f"see why: keyturn trace {subject}",
                )
            tell(f"{duration(spent)}  {len(open_places)} of {len(places)} left: {_told(open_places[:1])}")
            time.sleep(min(TICK, max(0.0, seconds - spent)))


def _watched(cluster: Cluster, subject: str, namespace: str | None, release: Release) -> Watched:
    found = find_subject(cluster, subject, namespace)
    if not any(has_current(bound, found.secret_id) for bound in found.bound):
        raise NotFound(f"{cluster.context}: no Secret follows the label AWSCURRENT of {subject}", "see keyturn status")
    return Watched(cluster, found, settings_of(cluster, release)[0])


def _workload_places(sight: Sight, bound: Bound) -> Iterator[Place]:
    namespace = bound.target.namespace
    for consumer in consumers_of(bound, sight.consumers(namespace)):
        yield workload_place(consumer, bound, sight.annotations(namespace), sight.settings, time.time())


def _told(places: Sequence[tuple[str, Place]]) -> str:
    texts = [f"{place.name} in {name}" + (f" ({place.why})" if place.why else "") for name, place in places[:3]]
    more = f" and {len(places) - 3} more" if len(places) > 3 else ""
    return ", ".join(texts) + more


def _ended(
    out: Output, subject: str, version: str, goal: Goal, places: Sequence[tuple[str, Place]], spent: float
) -> ExitCode:
    held = [each for each in places if each[1].stage is Stage.HELD]
    clusters = list(dict.fromkeys(name for name, _ in places))
    if out.is_data:
        out.data(_data(subject, version, goal, places, spent))
    else:
        secrets = sum(place.stage is Stage.APPLIED for _, place in places)
        live = sum(place.stage is Stage.LIVE for _, place in places)
        told = f"{secrets} Secret{'' if secrets == 1 else 's'}"
        if goal is Goal.LIVE:
            told += f", {live} workload{'' if live == 1 else 's'}"
        out.line(f"{subject} version {version[:8]} is {goal} in {', '.join(clusters)}: {told} ({duration(spent)})")
        for _, place in held:
            out.line(f"except {place.name}: {place.why}", "yellow")
    return ExitCode.FINDING if held else ExitCode.FINE


def _data(subject: str, version: str, goal: Goal, places: Sequence[tuple[str, Place]], spent: float) -> dict[str, Any]:
    listed = [
        {"context": name, "name": place.name, "stage": str(place.stage), "why": place.why or None}
        for name, place in places
    ]
    return {"subject": subject, "version": version, "for": str(goal), "seconds": round(spent, 1), "places": listed}


@contextmanager
def _progress(out: Output) -> Iterator[Any]:
    """Show one line on stderr that changes, if it is a terminal."""
    if not out.err.is_terminal:
        yield lambda text: None
        return
    with out.err.status("looking") as shown:
        yield lambda text: shown.update(out.plain(text))
