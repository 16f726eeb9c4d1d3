"""``python -m keyturn_receiver`` runs the receiver as a process."""

import asyncio
import ctypes
import gc
import logging
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import uvloop

from keyturn_receiver import __version__, proxies
from keyturn_receiver.app import build
from keyturn_receiver.cluster.transport import Transport
from keyturn_receiver.settings import Settings, read_settings
from keyturn_receiver.sources.thread_pools import ThreadPools
from keyturn_receiver.telemetry.logs import configure_logging, log_unhandled
from keyturn_receiver.telemetry.tracing import TracingUnavailable, no_traces, opentelemetry

RENDER_THREADS = 1  # rendering holds the GIL most of the time, so further threads would not help
# Bytes. A freed block of memory that is larger than this goes back to the kernel at once. Smaller blocks have to stay
# in the process, because each read from a TLS connection needs a block of 256 KiB for a moment, and a fresh block costs
# as much CPU time as the read itself.
LARGE_BLOCK = 512 * 1024
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # from <malloc.h>

_log = logging.getLogger("keyturn_receiver")


def main() -> None:
    """Read the settings, run the receiver, and end the process.

    The exit status is 0 after a normal shutdown, 1 after a fatal error, and 2 if the settings cannot be used.
    """
    settings = read_settings()
    configure_logging(settings.log_level)
    proxies.normalize_no_proxy()
    gc.set_threshold(20_000, 10, 5)  # a burst creates thousands of objects but hardly any reference cycles
    _return_memory()
    # Worker threads hold the GIL while they parse AWS responses. With a short switch interval, the event loop gets the
    # GIL sooner.
    sys.setswitchinterval(0.0005)  # seconds
    try:
        uvloop.run(serve(settings))
    except TracingUnavailable as error:
        print(f"KEYTURN_TRACES: {error}.", file=sys.stderr)
        sys.exit(2)
    except Exception:
        # Our log formatter writes only the frames of the traceback. The text of an exception may quote a secret value.
        _log.critical("fatal error, exiting", exc_info=True)
        _exit(1)
    _exit(0)


async def serve(settings: Settings) -> None:
    """Build the receiver, run it until it shuts down, and close all its resources."""
    asyncio.get_running_loop().set_exception_handler(log_unhandled)
    span, shut_down_traces = opentelemetry("keyturn-receiver", __version__) if settings.traces else (no_traces, _no_op)
    transport = await Transport.connect(settings.kubernetes_requests + 16 + 5 * len(settings.namespaces))
    pools = ThreadPools.of(settings.aws_threads)
    rendering = ThreadPoolExecutor(RENDER_THREADS, thread_name_prefix="render")
    try:
        await build(settings, transport, pools, rendering, span).run()
    finally:
        await transport.close()
        pools.close()
        rendering.shutdown(wait=False, cancel_futures=True)
        shut_down_traces()


def _return_memory() -> None:
    """Make the C library return large free blocks of memory to the kernel. The pages of Kubernetes lists need such
    blocks.

    By default, the library keeps free blocks for later use, in an arena per thread. Only glibc has these settings
    (``mallopt(3)``).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK)
        mallopt(_M_TRIM_THRESHOLD, 2 * LARGE_BLOCK)
        mallopt(_M_ARENA_MAX, 2)


def _no_op() -> None:
    pass


def _exit(status: int) -> None:
    # In a normal exit, the interpreter would first join every thread that waits for AWS. This could take forever.
    logging.shutdown()
    sys.stdout.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
