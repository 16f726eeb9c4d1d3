"""Child processes that always end with this process, even if it is killed with SIGKILL."""

import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

# The code of the guard. The guard is a process between this process and the program. When this process ends for any
# reason, the guard's standard input is closed, and the guard kills the program's whole process group. PR_SET_PDEATHSIG
# is not used, because it needs Linux, and because it would also kill the program when only the thread that started the
# program ends.
_GUARD = """
import os, signal, subprocess, sys, threading
program = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, lambda *_: program.terminate())
def watch():
    while os.read(0, 1):
        pass
    os.killpg(os.getpgid(0), signal.SIGKILL)
threading.Thread(target=watch, daemon=True).start()
sys.exit(program.wait() & 0xFF)
"""


class StartFailed(RuntimeError):
    """Something did not start: a program ended before it was ready, or was not ready in time, or a chart could not be
    installed. The text gives the reason and, for a program, the last lines of its log."""


class Stoppable:
    """Base class for parts that run until ``stop`` is called. A part is also a context manager, which calls ``stop`` at
    the end."""

    def stop(self) -> None:
        """Stop the part."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Program:
    """One running program below a guard process. Its output is written to the file ``log``."""

    def __init__(
        self, name: str, command: Sequence[str | Path], directory: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        with self.log.open("ab") as output:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-c", _GUARD, *map(str, command)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if environment is None else dict(environment),
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        """Whether the program still runs."""
        return self._guard.poll() is None

    @property
    def status(self) -> int | None:
        """The exit status of the program, or None while it runs."""
        return self._guard.poll()

    def wait_for(self, ready: Callable[[], bool], seconds: float) -> None:
        """Wait until ``ready`` returns true. Raises StartFailed if the program ends before that, or if
        ``seconds`` have passed."""
        end = time.monotonic() + seconds
        while not ready():
            failure = (
                "ended" if not self.running else f"was not ready in {seconds:g} s" if time.monotonic() > end else None
            )
            if failure:
                raise StartFailed(f"{self.name} {failure}; the end of {self.log}:\n{self.last_lines()}")
            time.sleep(0.05)

    def last_lines(self, count: int = 15) -> str:
        """Return the last lines of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])

    def kill(self) -> None:
        """Kill the program with SIGKILL, as in a crash."""
        with suppress(ProcessLookupError):  # the program has already ended
            os.killpg(self._guard.pid, signal.SIGKILL)
        self._reap()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the program and its guard."""
        os.killpg(self._guard.pid, number)

    def stop(self, seconds: float = 15) -> None:
        """Stop the program gracefully. If it is still running after ``seconds``, kill it."""
        if self.running:
            self._guard.terminate()
            try:
                self._guard.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(self._guard.pid, signal.SIGKILL)
        self._reap()

    def _reap(self) -> None:
        self._guard.wait()
        if self._guard.stdin:
            self._guard.stdin.close()


def answers(url: str, context: ssl.SSLContext | None = None) -> Callable[[], bool]:
    """Return a condition for ``wait_for``. It is true if ``url`` answers with the status 200."""

    def ask() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=2, context=context) as response:  # noqa: S310 - loopback
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    return ask
