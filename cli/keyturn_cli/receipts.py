"""Receipts, read from the log group that infra/aws/receipts.yaml fills: whether a version has arrived in every cluster.

It needs one right, logs:FilterLogEvents on that group, and no access to a cluster. A line counts only if it is an event
of Keyturn's source and of the group's region. docs/receipts.md says who may write to the group.
"""

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from keyturn_cli.aws import errors
from keyturn_cli.errors import ExitCode, RolloutFailed, TimedOut, UsageError
from keyturn_cli.output import Output

LOG_GROUP = "/aws/events/keyturn-receipts"
APPLIED, LIVE = "applied", "live"
SOURCE = "dev.keyturn"
LOOK_BACK = 7 * 24 * 3600  # seconds before the wait for which receipts count
POLL_SECONDS = 3.0  # CloudWatch shows a line some seconds after it was written
_VERSION_ID = re.compile(r"[A-Za-z0-9-]{32,64}")
_ADVICE_GROUP = "deploy infra/aws/receipts.yaml there, or name the log group, the region and the profile"


@dataclass(slots=True)
class Arrival:
    """What the receipts say about one version.

    ``hosts`` are the receivers of all clusters where something is bound to the secret, once a receipt says which.
    ``live`` and ``stuck`` are hosts, and ``problems`` says what was refused, by host.
    """

    applied: bool = False
    hosts: set[str] = field(default_factory=set)
    live: set[str] = field(default_factory=set)
    stuck: dict[str, str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def take(self, event: Mapping[str, Any]) -> None:
        """Take one receipt into account. Receipts may come twice, and in any order."""
        detail, kind = event["detail"], event["detail-type"]
        if kind == "Keyturn Secret Live":
            self.live.add(str(detail["host"]))
            self.stuck.pop(str(detail["host"]), None)
        elif kind == "Keyturn Rollout Stuck" and detail["host"] not in self.live:
            self.stuck[str(detail["host"])] = ", ".join(map(str, detail.get("consumers", ())))
        elif kind == "Keyturn Secret Applied":
            self.applied = self.applied or detail.get("complete") is True
            for each in detail["receivers"]:
                if each["outcome"] == "ignored" and not each.get("secrets") and detail.get("healthy"):
                    continue  # nothing is bound to the secret there
                self.hosts.add(str(each["host"]))
                if not detail.get("healthy"):
                    self.problems[str(each["host"])] = str(each.get("reason", ""))


def wait_for_receipts(
    logs: Any,
    version_id: str,
    goal: str,
    seconds: float,
    hosts: Sequence[str] = (),
    group: str = LOG_GROUP,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> Arrival:
    """Wait until the receipts say that a version is applied, or live, in every cluster, and return what they say.

    ``logs`` is a client of CloudWatch Logs. ``goal`` is APPLIED or LIVE. ``hosts`` are the receivers of the clusters
    that must be live; without them, those that took the change and have something bound to the secret.

    Raises UsageError, TimedOut after ``seconds``, RolloutFailed, and AwsError if the group cannot be read.
    """
    if not _VERSION_ID.fullmatch(version_id):
        raise UsageError(f"{version_id} is no version id", "give the VersionId that AWS has answered")
    start = clock()
    arrival = Arrival()
    while True:
        for event in _receipts(logs, group, version_id, start - LOOK_BACK):
            arrival.take(event)
        wanted = set(hosts) or arrival.hosts
        if goal == APPLIED and arrival.applied:
            return arrival
        if goal == LIVE and wanted and wanted <= arrival.live and (arrival.applied or hosts):
            return arrival
        if goal == LIVE and (stuck := {host: each for host, each in arrival.stuck.items() if host in wanted}):
            told = "; ".join(f"{host}: {each}" if each else host for host, each in sorted(stuck.items()))
            raise RolloutFailed(f"the rollout of version {version_id} is stuck: {told}", "see keyturn explain there")
        if clock() - start >= seconds:
            raise TimedOut(_unfinished(arrival, goal, version_id, wanted, seconds), "see keyturn trace")
        sleep(min(POLL_SECONDS, max(0.1, seconds - (clock() - start))))


def _unfinished(arrival: Arrival, goal: str, version_id: str, wanted: set[str], seconds: float) -> str:
    if goal == LIVE and arrival.applied:
        missing = sorted(wanted - arrival.live)
        return f"version {version_id} is applied, but after {seconds:.0f} s not live in {', '.join(missing)}"
    return f"after {seconds:.0f} s there is no receipt that says that version {version_id} is applied"


def await_version(
    out: Output,
    logs: Any,
    version_id: str,
    goal: str,
    seconds: float,
    hosts: Sequence[str] = (),
    group: str = LOG_GROUP,
) -> ExitCode:
    """Wait as ``wait_for_receipts`` does, and tell how it ended. The result is FINDING if a binding has refused the
    version."""
    arrival = wait_for_receipts(logs, version_id, goal, seconds, hosts, group)
    names = sorted(arrival.live if goal == LIVE else arrival.hosts)
    if out.is_data:
        problems = [{"host": host, "reason": why or None} for host, why in sorted(arrival.problems.items())]
        out.data({"version": version_id, "for": goal, "hosts": names, "problems": problems})
    else:
        out.line(f"version {version_id[:8]} is {goal} in {', '.join(names) or 'no cluster: nothing is bound to it'}")
        for host, why in sorted(arrival.problems.items()):
            out.line(f"except in {host}: {why or 'see keyturn status there'}", "yellow")
    return ExitCode.FINDING if arrival.problems else ExitCode.FINE


def _receipts(logs: Any, group: str, version_id: str, since: float) -> Iterator[Mapping[str, Any]]:
    pattern = f'{{ $.detail.versionId = "{version_id}" }}'
    with errors(f"logs:FilterLogEvents on {group}", _ADVICE_GROUP):
        pages = logs.get_paginator("filter_log_events").paginate(
            logGroupName=group, filterPattern=pattern, startTime=max(0, int(since * 1000))
        )
        for page in pages:
            for each in page["events"]:
                if event := _believed(each["message"], logs.meta.region_name, version_id):
                    yield event


def _believed(message: str, region: str, version_id: str) -> Mapping[str, Any] | None:
    """Return a receipt about a version, or None for any other line."""
    try:
        event = json.loads(message)
        detail = event["detail"]
        if event["source"] != SOURCE or event["region"] != region or "replay-name" in event:
            return None
        if detail["versionId"] != version_id:
            return None
        Arrival().take(event)  # a receipt that lacks a field is none
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return dict(event) if isinstance(detail, dict) else None
