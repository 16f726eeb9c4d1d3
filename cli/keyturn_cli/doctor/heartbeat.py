"""Test of the whole event path. It puts one heartbeat on the bus, and waits until the event path's Lease shows the
heartbeat."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

from keyturn_cli.aws import Aws, AwsError, Stack
from keyturn_cli.doctor.aws_reader import put_heartbeat
from keyturn_cli.doctor.cluster_facts import LeaseState
from keyturn_cli.doctor.finding import Finding, Unknown, error, ok, skipped

TIMEOUT = 60.0  # seconds; a receiver writes a heartbeat into the Lease at most 10 s after it has arrived
PAUSE = 1.0


def send_heartbeat(
    aws: Aws,
    stack: Stack,
    read_lease: Callable[[], LeaseState | Unknown],
    timeout: float = TIMEOUT,
    sleep: Callable[[float], None] = time.sleep,
) -> Finding:
    """Put a heartbeat on the bus. Wait until the Lease shows this heartbeat or a later one, but at most for ``timeout``
    seconds. Return the finding.

    A heartbeat is recognized by its time. The time is by AWS's clock, in whole seconds.
    """
    before = read_lease()
    if isinstance(before, Unknown):
        return skipped("heartbeat", before)
    started = time.monotonic()
    # The time of a heartbeat is by AWS's clock. So the time of this machine is corrected by the difference between the
    # clocks.
    sent = datetime.fromtimestamp(time.time() - stack.skew, UTC).replace(microsecond=0)
    try:
        put_heartbeat(aws, stack)
    except AwsError as problem:
        return error(f"heartbeat not sent: {problem.call}: {problem.code}", problem.advice)
    while time.monotonic() - started < timeout:
        lease = read_lease()
        is_new = isinstance(lease, LeaseState) and lease.sent and lease.sent != before.sent
        if isinstance(lease, LeaseState) and lease.sent and is_new and (lease.sent - sent).total_seconds() >= -1:
            return ok(
                f"heartbeat: bus to Lease {lease.name} in {time.monotonic() - started:.0f} s (read by {lease.holder})"
            )
        sleep(PAUSE)
    return error(
        f"heartbeat: put on the bus, and not in the Lease {before.name} after {timeout:.0f} s",
        "the notifier's log says whether it came so far: docs/runbook.md#keyturneventpathdown",
    )
