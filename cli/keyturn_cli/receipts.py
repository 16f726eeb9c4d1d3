"""Reader of receipts. Receipts are the notifier's events about the arrival of a version in the clusters. They are in
the log group of infra/aws/receipts.yaml.

The reader needs only the right to logs:FilterLogEvents on this log group, and no access to a cluster. A line counts
only if it is an event with Keyturn's source and the region of the log group. docs/receipts.md names the principals that
may write to the log group.
"""

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from keyturn_cli.advice import advised
from keyturn_cli.aws import errors
from keyturn_cli.bound_secrets import may_be_same
from keyturn_cli.errors import CliError, ExitCode, RolloutFailed, TimedOut, UsageError
from keyturn_cli.output import Output
from keyturn_contract.message import REASON_HEARTBEAT, REASON_NO_LONGER_BOUND, REASON_NOT_BOUND

LOG_GROUP = "/aws/events/keyturn-receipts"
APPLIED, LIVE = "applied", "live"
KIND_APPLIED, KIND_WAITING = "Keyturn Secret Applied", "Keyturn Secret Waiting"
KIND_LIVE, KIND_STUCK = "Keyturn Secret Live", "Keyturn Rollout Stuck"
SOURCE = "dev.keyturn"
LOOK_BACK = 7 * 24 * 3600  # seconds before the start of the wait; older receipts are ignored
POLL_SECONDS = 3.0  # seconds between two reads; CloudWatch shows a line some seconds after it was written
_UNNAMED = "a cluster that the receipt does not name"
_NOT_CONCERNED = (REASON_HEARTBEAT, REASON_NOT_BOUND, REASON_NO_LONGER_BOUND)
_VERSION_ID = re.compile(r"[A-Za-z0-9-]{32,64}")
_ADVICE_GROUP = "deploy infra/aws/receipts.yaml there, or name the log group, the region and the profile"


@dataclass(slots=True)
class Arrival:
    """The state of one version according to the receipts. The name of a cluster is the host of its receiver's URL.

    ``applied`` is true if every receiver has taken the version. ``hosts`` are the clusters that use the version. It is
    empty until a receipt names them. ``live`` are the clusters in which the version is live. ``stuck`` maps a cluster
    to the names of its stuck workloads. ``problems`` maps a cluster to the reasons of its refusals. The cluster is an
    empty text if the receipt does not say which cluster has refused.
    """

    applied: bool = False
    hosts: set[str] = field(default_factory=set)
    live: set[str] = field(default_factory=set)
    stuck: dict[str, str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def take(self, event: Mapping[str, Any]) -> None:
        """Update the state with one receipt. Receipts may arrive twice, and in any order."""
        detail, kind = event["detail"], event["detail-type"]
        if kind == KIND_LIVE:
            self.live.add(str(detail["host"]))
            self.stuck.pop(str(detail["host"]), None)
        elif kind == KIND_STUCK and detail["host"] not in self.live:
            self.stuck[str(detail["host"])] = ", ".join(map(str, detail.get("consumers", ())))
        elif kind == KIND_APPLIED:
            self._take_applied(detail)

    def is_reached(self, goal: str, hosts: Sequence[str] = ()) -> bool:
        """Return whether the goal is reached. APPLIED is reached when every receiver has taken the version. LIVE has to
        be reached in the clusters ``hosts`` or, if ``hosts`` is empty, in every cluster that uses the version."""
        if goal == APPLIED:
            return self.applied
        wanted = set(hosts) or self.hosts
        return bool(wanted) and wanted <= self.live

    @property
    def is_for_nobody(self) -> bool:
        """Whether every receiver has taken the version, and no cluster uses it."""
        return self.applied and not self.hosts and not self.live

    def _take_applied(self, detail: Mapping[str, Any]) -> None:
        self.applied = self.applied or detail.get("complete") is True
        receivers = [(str(each["host"]), str(each["outcome"]), each) for each in detail["receivers"]]
        self.hosts |= {host for host, outcome, _ in receivers if outcome != "ignored"}
        # If the receiver itself retries a Secret, this is not a problem.
        refused = {
            host: str(each["reason"])
            for host, _, each in receivers
            if each.get("reason", REASON_NOT_BOUND) not in _NOT_CONCERNED and not each.get("retrying")
        }
        if detail.get("complete") is True and not detail.get("healthy") and not refused:
            # The receipt has no reasons (ReceiptDetails=false).
            refused = {receivers[0][0] if len(receivers) == 1 else "": ""}
        self.problems |= refused


def wait_for_receipts(
    logs: Any,
    secret_id: str,
    version_id: str,
    goal: str,
    seconds: float,
    hosts: Sequence[str] = (),
    group: str = LOG_GROUP,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> Arrival:
    """Wait until the receipts show that a version is applied, or live, in every cluster. Return the last state.

    ``logs`` is a client for CloudWatch Logs. ``secret_id`` is the name or ARN of the AWS secret. ``goal`` is APPLIED or
    LIVE. ``hosts`` are the hosts of the receivers in whose clusters the version must be live. If ``hosts`` is empty, a
    receipt of the kind Applied says which clusters use the version.

    Raises UsageError, TimedOut after ``seconds``, RolloutFailed, CliError if no cluster uses the version, and AwsError
    if the log group cannot be read.
    """
    if not _VERSION_ID.fullmatch(version_id):
        raise UsageError(f"{version_id} is no version id", "give the VersionId that AWS has answered")
    start = clock()
    arrival = Arrival()
    while True:
        for event in read_receipts(logs, group, (secret_id, version_id), start - LOOK_BACK):
            arrival.take(event)
        wanted = set(hosts) or arrival.hosts
        if not hosts and arrival.is_for_nobody:
            raise _for_nobody(arrival, version_id)
        if arrival.is_reached(goal, hosts):
            return arrival
        if goal == LIVE and (stuck := {host: each for host, each in arrival.stuck.items() if host in wanted}):
            told = "; ".join(f"{host}: {each}" if each else host for host, each in sorted(stuck.items()))
            raise RolloutFailed(
                f"the rollout of version {version_id} is stuck: {told}",
                f"see {advised('trace', secret_id)} with the --context of this cluster",
            )
        if clock() - start >= seconds:
            raise TimedOut(
                _unfinished(arrival, goal, version_id, wanted, seconds), f"see {advised('trace', secret_id, '--aws')}"
            )
        sleep(min(POLL_SECONDS, max(0.1, seconds - (clock() - start))))


def _for_nobody(arrival: Arrival, version_id: str) -> CliError:
    if not arrival.problems:
        return CliError(
            f"no cluster uses version {version_id}: no Secret is bound to it", "bind a Secret (docs/bindings.md)"
        )
    return CliError(
        f"no cluster uses version {version_id}: {_told(arrival)}", f"see {advised('status', '--failing')} there"
    )


def _told(arrival: Arrival) -> str:
    return "; ".join(f"{host or _UNNAMED}: {why or 'refused'}" for host, why in sorted(arrival.problems.items()))


def _unfinished(arrival: Arrival, goal: str, version_id: str, wanted: set[str], seconds: float) -> str:
    if goal == LIVE and wanted:
        is_applied = f"version {version_id} is applied, but" if arrival.applied else f"version {version_id} is"
        missing = ", ".join(sorted(wanted - arrival.live))
        return f"{is_applied} after {seconds:.0f} s not live in {missing}"
    return f"after {seconds:.0f} s there is no receipt that says that version {version_id} is applied"


def await_version(
    out: Output,
    logs: Any,
    secret_id: str,
    version_id: str,
    goal: str,
    seconds: float,
    hosts: Sequence[str] = (),
    group: str = LOG_GROUP,
) -> ExitCode:
    """Call ``wait_for_receipts``, and print the result. The exit code is FINDING if a binding has refused the version,
    and otherwise FINE."""
    arrival = wait_for_receipts(logs, secret_id, version_id, goal, seconds, hosts, group)
    names = sorted(arrival.live if goal == LIVE else arrival.hosts)
    if out.is_data:
        problems = [{"host": host or None, "reason": why or None} for host, why in sorted(arrival.problems.items())]
        out.data({"version": version_id, "for": goal, "hosts": names, "problems": problems})
    else:
        out.line(f"version {version_id[:8]} is {goal} in {', '.join(names)}")
        see = f"see {advised('status')} there"
        for host, why in sorted(arrival.problems.items()):
            out.line(f"except in {host or _UNNAMED}: {why or see}", "yellow")
    return ExitCode.FINDING if arrival.problems else ExitCode.FINE


def read_receipts(logs: Any, group: str, about: tuple[str, str], since: float) -> Iterator[Mapping[str, Any]]:
    """Yield the receipts about a version of an AWS secret. ``about`` has the name or ARN of the secret, and the
    version. ``since`` is in seconds since 1970. Raises AwsError if the log group cannot be read."""
    version_id = about[1]
    pattern = f'{{ $.detail.versionId = "{version_id}" }}'
    with errors(f"logs:FilterLogEvents on {group}", _ADVICE_GROUP):
        pages = logs.get_paginator("filter_log_events").paginate(
            logGroupName=group, filterPattern=pattern, startTime=max(0, int(since * 1000))
        )
        for page in pages:
            for each in page["events"]:
                if event := _believed(each["message"], logs.meta.region_name, about):
                    yield event


def _believed(message: str, region: str, about: tuple[str, str]) -> Mapping[str, Any] | None:
    """Parse a line of the log. Return the receipt if it is about this version of this AWS secret. Return None if the
    line is anything else."""
    secret_id, version_id = about
    try:
        event = json.loads(message)
        detail = event["detail"]
        if event["source"] != SOURCE or event["region"] != region or "replay-name" in event:
            return None
        named = str(detail.get("secretArn") or detail["name"])
        if detail["versionId"] != version_id or not may_be_same(named, secret_id):
            return None
        Arrival().take(event)  # a check: it raises an error if a field is missing
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return dict(event) if isinstance(detail, dict) else None
