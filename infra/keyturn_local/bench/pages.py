"""Measurement of the cost of open status pages: eight pages are open during twenty rotations per second.

``python -m keyturn_local.bench.pages URL`` opens the eight pages, and reads their streams until it is stopped. It runs
as a process of its own, so that it takes no CPU time from the load generator.
"""

import asyncio
import sys
from functools import partial

import aiohttp

from keyturn_local.bench.latencies import Latencies, percentile
from keyturn_local.bench.rows import Row
from keyturn_local.bench.testbed import BURST, Testbed
from keyturn_local.processes.environment import IMPORT_ROOTS, clean_environment
from keyturn_local.processes.program import Program
from keyturn_receiver.status.streams import MAX_STREAMS

SAMPLES = 200  # the number of rotations in one phase
PHASES = 4  # the number of pairs of phases; a pair is one phase without pages and one phase with pages
OPEN = "pages are open"


def open_pages(testbed: Testbed, _: Latencies) -> list[Row]:
    """Measure the latency of rotations without pages and with MAX_STREAMS open pages, in alternating phases. Also
    measure the memory that the receiver uses for the pages."""
    receiver = testbed.receiver()
    receiver.start()
    names = testbed.aws.names[:BURST]
    testbed.rotate_steadily(receiver, names[:SAMPLES])  # warm up
    without: list[float] = []
    beside: list[float] = []
    memory = []
    for phase in range(PHASES):
        chosen = names[phase * SAMPLES : (phase + 1) * SAMPLES]
        without += testbed.rotate_steadily(receiver, chosen)
        before = receiver.metric("process_resident_memory_bytes")
        command = [sys.executable, "-m", "keyturn_local.bench.pages", receiver.page_url]
        pages = Program(
            f"pages-{phase}", command, testbed.directory, {**clean_environment(), "PYTHONPATH": IMPORT_ROOTS}
        )
        try:
            pages.wait_for(partial(_are_open, pages), 30)
            beside += testbed.rotate_steadily(receiver, chosen)
            memory.append(receiver.metric("process_resident_memory_bytes") - before)
        finally:
            pages.kill()
    receiver.stop()
    rows = []
    for part, aim in ((0.5, None), (0.99, 1.05)):
        label = f"p{part * 100:.0f}"
        rows.append(
            Row(
                f"accepted to applied beside {MAX_STREAMS} open status pages, {label}, to the same without",
                percentile(beside, part) / percentile(without, part),
                "x",
                aim,
            )
        )
    rows.append(Row(f"{MAX_STREAMS} open status pages, memory of the receiver", max(memory) / 1024**2, "MiB"))
    return rows


def _are_open(pages: Program) -> bool:
    return OPEN in pages.log.read_text()


async def read_streams(url: str) -> None:
    """Open MAX_STREAMS streams and read them."""
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as tasks:
        replies = [await session.get(f"{url}/v1/stream", raise_for_status=True) for _ in range(MAX_STREAMS)]
        print(OPEN, flush=True)
        for reply in replies:
            tasks.create_task(_read(reply))


async def _read(reply: aiohttp.ClientResponse) -> None:
    async for _ in reply.content.iter_any():
        pass


if __name__ == "__main__":
    asyncio.run(read_streams(sys.argv[1]))
