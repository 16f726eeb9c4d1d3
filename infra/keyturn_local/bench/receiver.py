"""`make bench` measures the receiver with a real API server, and with a stub AWS that answers after 20 ms.

Ratios compare the receiver with raw applies in the same run on the same machine. Times in seconds mostly show how fast
the machine was. `make bench ONLY="calls latency"` runs only the measurements `calls` and `latency`, and the
measurements that create the Secrets for them. With ONLY, no files are written.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from keyturn_local.bench import plot, pod_memory
from keyturn_local.bench.api_server import CONCURRENCY
from keyturn_local.bench.latencies import Latencies
from keyturn_local.bench.measurements import COUNTED, MEASUREMENTS, NEEDED, SWEEPS, TEAMS
from keyturn_local.bench.rows import Row, table, write
from keyturn_local.bench.testbed import LATENCY, RATE, RESTART_RATE, Testbed
from keyturn_local.paths import ROOT
from keyturn_local.processes.environment import bypass_proxies

OUTPUT = ROOT / "build" / "bench.json"
PAGE = ROOT / "docs" / "benchmark.md"


def main() -> None:
    """Run all measurements, or only those that the command line names and those that they need. Print the table. If the
    command line names none, also write the rows to OUTPUT, and write PAGE with its plot."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(MEASUREMENTS)}; without any, all are run")
    names = parser.parse_args().names
    if unknown := [name for name in names if name not in MEASUREMENTS]:
        parser.error(f"no measurement is called {', '.join(unknown)}")
    bypass_proxies()
    latencies = Latencies()
    pod_rows = [] if names else pod_memory.rows()
    wanted = {*names, *(needed for name in names for needed in NEEDED.get(name, ()))}
    rows = _measure([name for name in MEASUREMENTS if name in wanted or not names], latencies) + pod_rows
    print(table(rows))
    if not names:
        write(rows, OUTPUT)
        plot.draw(PAGE.with_suffix(".svg"), latencies)
        PAGE.write_text(_page(rows))


def _measure(names: Sequence[str], latencies: Latencies) -> list[Row]:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        testbed = Testbed(Path(directory), stack)
        for name in names:
            started = time.monotonic()
            rows += MEASUREMENTS[name](testbed, latencies)
            print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return rows


def _page(rows: Sequence[Row]) -> str:
    return f"""# Benchmark

`make bench` made this page in one run. The receiver, the API server, etcd, the stub AWS and the load generator shared
one machine with {os.cpu_count()} cores, so compare the ratios and not the times. AWS is a stub that answers after
{LATENCY * 1000:g} ms; the API server, etcd, the Deployment controller and the receiver's rights are real. There are
Deployments only where a row says so, so that all other measurements write nothing but Secrets.

![Accepted to applied](benchmark.svg)

{table(rows)}

- *One rotation with one consumer* is the mean of {COUNTED} rotations in steady state, one after the other. The stub AWS
  counts the reads; the receiver's own metrics count the rest, without the leader's Lease. An apply writes the Secret,
  and a mark restarts the consumer. The lists are at most one of pods and one of CronJobs in ten seconds for each
  namespace, whatever the number of its rotations.
- *Floor* is one `GetSecretValue` by boto3 in a thread, followed by one server-side apply over the receiver's own
  transport, {RATE:g} times a second.
- *Raw applies* are 1,000 server-side applies of Secrets of the same size, {CONCURRENCY} at once. The receiver's watch
  shows these Secrets, but they are not bound.
- *Accepted to applied* is the time from sending a signed delivery to its acknowledgement, which the receiver sends
  after it has applied the change.
- *Accepted to restarted* and the bursts with Deployments also change the pod template of a Deployment. Their floor does
  so by a raw patch, beside the same Deployment controller. There are no nodes, so that no pod starts. The aim is for
  {RESTART_RATE:g} rotations a second. At {RATE:g} a second, the Deployment controller keeps all cores busy, and the
  times are mostly the wait for a core.
- *A burst* is limited by the receiver's CPU. One Python thread verifies, reads, plans, applies, and handles the watch
  events of its own writes, while raw applies leave all cores to the API server. Several replicas share a burst, but one
  replica cannot use a second core.
- *Secrets that name a ServiceAccount* are in {TEAMS} namespaces. Each reads one secret with its own role. The same
  without roles are the same number of Secrets in the same namespaces. Calls are the mean of {SWEEPS} sweeps at rest.
- *A pod* is the only replica of the chart on a real node. It fills 10,000 empty Secrets after its start, then 1,000
  secrets rotate at once. Its peak is the kernel's count against the limit. The kernel charges a page of a file to the
  first pod that reads it, so a process may have more resident memory than its pod is charged for.
"""


if __name__ == "__main__":
    main()
