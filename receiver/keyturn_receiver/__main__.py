"""``python -m keyturn_receiver``: the receiver as a process, with its settings, its threads and its end."""

import asyncio
import gc
import logging
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import uvloop

from keyturn_receiver import __version__
from keyturn_receiver.app import SWEEP_THREADS, Receiver
from keyturn_receiver.cluster.transport import Transport
from keyturn_receiver.settings import Settings, read_settings
from keyturn_receiver.sources.thread_pools import ThreadPool, ThreadPools
from keyturn_receiver.telemetry.logs import configure_logging, unforeseen
from keyturn_receiver.telemetry.tracing import TracingUnavailable, no_traces, opentelemetry

SUSPECT_THREADS = 4
RENDER_THREADS = 1  # what renders holds the interpreter most of the time

_log = logging.getLogger("keyturn_receiver")


def main() -> None:
    """Read the settings and run."""
    settings = read_settings()
    configure_logging(settings.log_level)
    gc.set_threshold(20_000, 20, 20)  # a rush makes thousands of objects, and hardly ever a cycle
    # Answers of AWS are parsed in threads, and the loop should not wait for that.
    sys.setswitchinterval(0.0005)  # seconds
    try:
        uvloop.run(serve(settings))
    except TracingUnavailable as error:
        print(f"KEYTURN_TRACES: {error}.", file=sys.stderr)
        sys.exit(2)
    except Exception:
        # Logged by our formatter, which shows frames and no text: an exception's own may quote what it stumbled over.
        _log.critical("broken, to be started anew", exc_info=True)
        _end(1)
    _end(0)


async def serve(settings: Settings) -> None:
    """Build the receiver, run it, and leave nothing open."""
    asyncio.get_running_loop().set_exception_handler(unforeseen)
    span, end_traces = opentelemetry("keyturn-receiver", __version__) if settings.traces else (no_traces, _nothing)
    transport = await Transport.connect(settings.kubernetes_requests + 16 + 5 * len(settings.namespaces))
    threads = {"foreground": settings.aws_threads, "quarantine": SUSPECT_THREADS, "background": SWEEP_THREADS}
    pools = ThreadPools(**{name: ThreadPool(name, number) for name, number in threads.items()})
    rendering = ThreadPoolExecutor(RENDER_THREADS, thread_name_prefix="render")
    try:
        await Receiver(settings, transport, pools, rendering, span).run()
    finally:
        await transport.close()
        pools.close()
        rendering.shutdown(wait=False, cancel_futures=True)
        end_traces()


def _nothing() -> None:
    pass


def _end(status: int) -> None:
    # At once: the interpreter would wait for each thread that waits for AWS, which may be for ever.
    logging.shutdown()
    sys.stdout.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
