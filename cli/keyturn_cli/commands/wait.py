"""`keyturn wait`: waits in CI until a version of an AWS secret has arrived."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any

import typer

from keyturn_cli import receipts
from keyturn_cli.advice import advised
from keyturn_cli.aws import Aws
from keyturn_cli.aws_secrets import version_at
from keyturn_cli.bound_secrets import Bound, get_bound
from keyturn_cli.cluster import Cluster
from keyturn_cli.completion import SecretSubject
from keyturn_cli.errors import (
    ExitCode,
    Forbidden,
    NotFound,
    RolloutFailed,
    TimedOut,
    Unreachable,
    UsageError,
    reported,
)
from keyturn_cli.options import (
    DEFAULT_RELEASE,
    Contexts,
    LogGroup,
    Namespace,
    NoColor,
    OutputFormat,
    Release,
    ReleaseName,
    read_release,
)
from keyturn_cli.outage import Outage
from keyturn_cli.output import Format, Output
from keyturn_cli.release import Settings, settings_of
from keyturn_cli.rotation import Place, Stage, consumers_of, has_current, secret_place
from keyturn_cli.sight import Sight
from keyturn_cli.subjects import Subject, find_subject
from keyturn_cli.times import duration, read_duration
from keyturn_cli.words import counted
from keyturn_cli.workload_stage import place_of
from keyturn_receiver.core.arn import region
from keyturn_receiver.core.binding import is_secret_id

TICK = 1.0  # seconds between two looks
PODS_TICK = 10.0  # seconds between two looks at the pods of workloads whose restarts are under way


class Goal(StrEnum):
    """The state that ends the wait."""

    APPLIED = "applied"
    LIVE = "live"


VERSION = Annotated[
    str | None, typer.Option("--version", metavar="ID", help="Version id. [default: AWS is asked for AWSCURRENT]")
]
GOAL = Annotated[
    Goal, typer.Option("--for", help="applied: the Secrets have it; live: all pods that Keyturn restarts run it.")
]
AWS = Annotated[bool, typer.Option("--aws", help="Ask the receipts in AWS instead of the cluster.")]
HOSTS = Annotated[
    list[str] | None,
    typer.Option("--host", metavar="HOST", help="With --aws --for live: wait for this receiver; repeat it."),
]
TIMEOUT = Annotated[str, typer.Option("--timeout", metavar="TIME", help="Such as 90s, 5m or 1h.")]


@dataclass(slots=True)
class Watched:
    """The Secrets of one cluster for which the command waits. ``notes`` say what the caller could not read.
    ``pods_at`` is the time of the next look at pods, in monotonic seconds."""

    cluster: Cluster
    subject: Subject
    settings: Settings
    notes: Mapping[str, None] = field(default_factory=dict)
    pods_at: float = 0.0

    def check_rights(self) -> None:
        """Check that the caller may read the workloads and the annotations of the namespaces, because without them
        nobody knows what is live. Raises Forbidden."""
        sight = Sight(self.cluster, self.settings)
        for namespace in sorted({bound.target.namespace for bound in self.subject.bound}):
            sight.consumers(namespace)
            sight.annotations(namespace)
        self._check_seen(sight)

    def look(self, version: str, goal: Goal) -> list[Place]:
        """Return how far each Secret has come. If ``goal`` is LIVE, also return this for each workload that reads a
        Secret with the version. A Secret that no longer follows AWSCURRENT of the AWS secret is left out.

        Raises Forbidden if the caller may not read a workload or namespace, and NotFound if all Secrets are left out.
        """
        places: list[Place] = []
        sight = Sight(self.cluster, self.settings)  # a new cache, so that each look reads the objects again
        reads_pods = time.monotonic() >= self.pods_at
        if reads_pods:
            self.pods_at = time.monotonic() + PODS_TICK
        for before in self.subject.bound:
            bound = self._read(before)
            if bound is None or not has_current(bound, self.subject.secret_id):
                continue
            place = secret_place(bound, self.subject.secret_id, version)
            places.append(place)
            if goal is Goal.LIVE and place.stage is Stage.APPLIED:
                consumers = consumers_of(bound, sight.consumers(bound.target.namespace))
                places += (place_of(sight, each, bound, reads_pods) for each in consumers)
        self._check_seen(sight)
        if not places:
            raise nothing_follows(self.cluster, self.subject.name)
        return places

    def _check_seen(self, sight: Sight) -> None:
        if sight.denied:
            raise Forbidden(
                f"{self.cluster.context}: nobody knows what is live, because you may not {', '.join(sight.denied)}",
                "ask for this right, or wait with --for applied",
            )

    def _read(self, before: Bound) -> Bound | None:
        try:
            return get_bound(self.cluster, before.target)
        except NotFound:
            return None


@reported
def wait(
    subject: SecretSubject,
    version: VERSION = None,
    goal: GOAL = Goal.APPLIED,
    timeout: TIMEOUT = "5m",
    context: Contexts = None,
    namespace: Namespace = None,
    release: ReleaseName = DEFAULT_RELEASE,
    aws: AWS = False,
    host: HOSTS = None,
    log_group: LogGroup = receipts.LOG_GROUP,
    output: OutputFormat = Format.TABLE,
    no_color: NoColor = False,
) -> ExitCode:
    """Wait until a version has arrived in every Secret, or pod.

    It waits in one or several clusters. With --aws it reads the receipts in AWS. That takes logs:FilterLogEvents, and
    without --version also DescribeSecret. The exit code is 3 after the time-out, 4 if the rollout of a workload has
    failed, and 1 if a workload keeps pods with the old value by a setting of its own.
    """
    out = Output(output, no_color)
    seconds = read_duration(timeout)
    if seconds is None:
        raise UsageError(f"--timeout {timeout} is no duration", "write, for example, 90s, 5m or 1h")
    if aws:
        if context or namespace or release != DEFAULT_RELEASE:
            raise UsageError("--aws asks no cluster", "leave out --context, --namespace and --release")
        if not is_secret_id(subject):
            raise UsageError(f"{subject} is no name of a secret", "write the name or ARN of an AWS secret")
        logs = Aws().client("logs", region(subject) or "")
        version_id = version or version_at(subject)
        return receipts.await_version(out, logs, subject, version_id, goal, seconds, host or (), log_group)
    if host or log_group != receipts.LOG_GROUP:
        raise UsageError("--host and --log-group are about receipts", "give --aws, too, or leave them out")
    watched = watch(subject, goal, context or [None], namespace, read_release(release))
    return wait_for(out, subject, version, goal, seconds, watched)


def wait_for(
    out: Output,
    subject: str,
    version: str | None,
    goal: Goal,
    seconds: float,
    watched: Sequence[Watched],
) -> ExitCode:
    """Wait for the goal, and print the result. The wait goes on while an API server cannot be reached for a short time,
    for example because it is being upgraded.

    Raises TimedOut, RolloutFailed, the errors of ``Watched.look`` and ``Cluster`` and, if ``version`` is None, the
    errors of ``version_at`` and UsageError.
    """
    started = time.monotonic()
    notes = list(dict.fromkeys(f"{each.cluster.context}: {note}" for each in watched for note in each.notes))
    if not out.is_data:
        out.notes(notes)
    if version is None:
        found = watched[0].subject
        version = version_at(found.only_secret_id("name one, or give --version ID"), found.region)
    outage = Outage()
    with _progress(out) as tell:
        while True:
            try:
                looks = [(each.cluster.context, each.look(version, goal)) for each in watched]
            except Unreachable as error:
                spent = time.monotonic() - started
                if spent >= seconds:
                    raise
                tell(f"{duration(spent)}  {error}")
                outage.endure(error)
                continue
            outage.end()
            places = [(name, place) for name, found in looks for place in found]
            if failed := [each for each in places if each[1].stage is Stage.FAILED]:
                raise RolloutFailed(
                    f"version {version[:8]}: {_told(failed)}",
                    f"see its pods: kubectl describe; {_traces(subject, failed)}",
                )
            open_places = [each for each in places if each[1].stage in (Stage.WAITING, Stage.FAILING, Stage.ROLLING)]
            spent = time.monotonic() - started
            if not open_places:
                return _ended(out, (subject, version, goal), places, spent, notes)
            if spent >= seconds:
                raise TimedOut(
                    f"version {version[:8]} has not arrived within {duration(seconds)}: {_told(open_places)}",
                    f"see why: {_traces(subject, open_places)}",
                )
            tell(f"{duration(spent)}  {len(open_places)} of {len(places)} left: {_told(open_places[:1])}")
            time.sleep(min(TICK, max(0.0, seconds - spent)))


def watch(
    subject: str,
    goal: Goal,
    contexts: Sequence[str | None],
    namespace: str | None,
    release: Release,
    of_aws: bool = False,
) -> list[Watched]:
    """Return, for each cluster, the Secrets for which the command will wait. If ``goal`` is LIVE, check that the caller
    may read the workloads and namespaces. If ``of_aws`` is true, ``subject`` can only be an AWS secret.

    Raises NotFound if a cluster has no Secret that follows AWSCURRENT, Forbidden, and the errors of ``find_subject``.
    """
    made = []
    for context in contexts:
        cluster = Cluster.connect(context)
        found = find_subject(cluster, subject, namespace, of_aws=of_aws)
        made.append(_watched(cluster, subject, found, goal, release))
    return made


def _watched(cluster: Cluster, subject: str, found: Subject, goal: Goal, release: Release) -> Watched:
    if not any(has_current(bound, found.secret_id) for bound in found.bound):
        raise nothing_follows(cluster, subject)
    # The settings are needed only for workloads, and only the goal LIVE looks at workloads.
    settings, note = settings_of(cluster, release) if goal is Goal.LIVE else (Settings(), "")
    watched = Watched(cluster, found, settings, dict.fromkeys(filter(None, (found.note, note))))
    if goal is Goal.LIVE:
        watched.check_rights()
    return watched


def nothing_follows(cluster: Cluster, subject: str) -> NotFound:
    """Return the error for a cluster without a Secret that follows AWSCURRENT of the subject."""
    return NotFound(
        f"{cluster.context}: no Secret here uses the current version of {subject}",
        f"see {advised('status', context=cluster.context)}",
    )


def _told(places: Sequence[tuple[str, Place]]) -> str:
    texts = [f"{place.name} in {name}" + (f" ({place.why})" if place.why else "") for name, place in places[:3]]
    more = f" and {len(places) - 3} more" if len(places) > 3 else ""
    return ", ".join(texts) + more


def _traces(subject: str, places: Sequence[tuple[str, Place]]) -> str:
    """Return the commands that show more of these places: one for each cluster."""
    contexts = dict.fromkeys(name for name, _ in places)
    return "; ".join(dict.fromkeys(advised("trace", subject, context=each) for each in contexts))


def _ended(
    out: Output,
    about: tuple[str, str, Goal],
    places: Sequence[tuple[str, Place]],
    spent: float,
    notes: Sequence[str],
) -> ExitCode:
    subject, version, goal = about
    held = [each for each in places if each[1].stage is Stage.HELD]
    clusters = list(dict.fromkeys(name for name, _ in places))
    if out.is_data:
        out.data({**_data(subject, version, goal, places, spent), "notes": list(notes)})
    else:
        secrets = sum(place.stage is Stage.APPLIED for _, place in places)
        live = sum(place.stage is Stage.LIVE for _, place in places)
        told = counted(secrets, "Secret")
        if goal is Goal.LIVE:
            told += f", {counted(live, 'workload')}"
        out.line(f"{subject} version {version[:8]} is {goal} in {', '.join(clusters)}: {told} ({duration(spent)})")
        for _, place in held:
            out.line(f"except {place.name}: {place.why}", "yellow")
        for _, place in places:
            if place.stage is Stage.OFF:
                out.line(f"{place.name}: {place.why}")
    return ExitCode.FINDING if held else ExitCode.FINE


def _data(subject: str, version: str, goal: Goal, places: Sequence[tuple[str, Place]], spent: float) -> dict[str, Any]:
    listed = [
        {"context": name, "name": place.name, "stage": str(place.stage), "why": place.why or None}
        for name, place in places
    ]
    return {"subject": subject, "version": version, "for": str(goal), "seconds": round(spent, 1), "places": listed}


@contextmanager
def _progress(out: Output) -> Iterator[Any]:
    """Show one changing line on stderr if stderr is a terminal."""
    if not out.err.is_terminal:
        yield lambda text: None
        return
    with out.err.status("looking") as shown:
        yield lambda text: shown.update(out.plain(text))
