"""`make bench`: the receiver on the real API server, against raw applies measured beside it, and a stub AWS of 20 ms.

All ratios are of one run on one machine; the seconds beside them tell how fast that machine was.

`make bench ONLY="calls latency"` runs some of the measurements and writes no files.
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
from keyturn_local.bench.measurements import COUNTED, MEASUREMENTS
from keyturn_local.bench.rows import Row, table, write
from keyturn_local.bench.testbed import LATENCY, RATE, Testbed
from keyturn_local.paths import ROOT
from keyturn_local.processes.environment import bypass_proxies

OUTPUT = ROOT / "build" / "bench.json"
PAGE = ROOT / "docs" / "benchmark.md"


def main() -> None:
    """Measure everything, print the table, and write it to OUTPUT and PAGE; or measure a part, and print."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(MEASUREMENTS)}; without any, all are run")
    names = parser.parse_args().names
    if unknown := [name for name in names if name not in MEASUREMENTS]:
        parser.error(f"no measurement is called {', '.join(unknown)}")
    bypass_proxies()
    latencies = Latencies()
    pod_rows = [] if names else pod_memory.rows()
    rows = _measure(names or list(MEASUREMENTS), latencies) + pod_rows
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

Made by `make bench`, in one run on one machine of {os.cpu_count()} cores, on which the API server, etcd, the stub AWS
and the load ran beside the receiver. The ratios are what to look at. AWS is a stub that answers after
{LATENCY * 1000:g} ms; the API server, etcd and the receiver's rights are the real ones. Except for the consumer whose
calls are counted, there are no workloads, so that nothing but Secrets is written.

![Accepted to applied](benchmark.svg)

{table(rows)}

- *One rotation with one consumer*: a mean of {COUNTED} rotations in steady state, one after the other. AWS counts the
  reads; the receiver's own metrics count the rest. An apply writes the Secret, a mark restarts the consumer.
- *Floor*: one `GetSecretValue` by boto3 in a thread, then one server-side apply by the receiver's own transport,
  {RATE:g} times a second.
- *Raw applies*: 1,000 server-side applies of a Secret of the same size, {CONCURRENCY} at once, that nobody watches.
- *Accepted to applied*: from sending a signed delivery to its acknowledgement, which means applied.
- *A burst* is bound by the receiver's CPU: one thread of Python verifies, reads, plans, applies, and handles the watch
  events of its own writes, while raw applies leave both cores to the API server. More replicas share a burst; one
  replica has no second thread.
- *A pod* is one of the chart's, of one replica, on a real node: 10,000 empty Secrets are filled after the start, then
  1,000 rotate at once. Its peak is the kernel's count against the limit. The kernel charges a page of a file to the
  first reader, so that the process may have more resident than its pod is charged for.
"""


if __name__ == "__main__":
    main()
