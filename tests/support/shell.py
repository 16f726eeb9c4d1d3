"""A shell session. Commands run one after another in the same bash, so the directory and the variables are kept."""

import os
import selectors
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self
from uuid import uuid4


class Shell:
    """A running bash. Its commands have no terminal and no standard input, so none of them can ask a question."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],  # noqa: S607 - the machine's own bash
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env=dict(environment),
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bash.kill()
        self._bash.wait()
        for pipe in (self._bash.stdin, self._bash.stdout):
            if pipe:
                pipe.close()

    def run(self, command: str, seconds: float = 240) -> tuple[int, str]:
        """Run a command. Return its exit status, and its output with standard error. Fails if it takes more than
        ``seconds``."""
        assert self._bash.stdin
        mark = f"end-{uuid4().hex}"
        # The command runs in a group, not in a subshell, so that `cd` and `export` have a lasting effect.
        self._bash.stdin.write(f"{{ {command}\n}} </dev/null; printf '\\n%s %s\\n' {mark} $?\n".encode())
        self._bash.stdin.flush()
        output = self._read_until(mark, seconds)
        text, _, status = output.rpartition(f"\n{mark} ")
        return int(status), text

    def _read_until(self, mark: str, seconds: float) -> str:
        assert self._bash.stdout
        end = time.monotonic() + seconds
        output = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._bash.stdout, selectors.EVENT_READ)
            while not (f"\n{mark} ".encode() in output and output.endswith(b"\n")):
                left = end - time.monotonic()
                assert left > 0, f"not done within {seconds:g} s; so far:\n{output.decode(errors='replace')}"
                if selector.select(left):
                    chunk = os.read(self._bash.stdout.fileno(), 1 << 16)
                    assert chunk, f"the shell ended:\n{output.decode(errors='replace')}"
                    output += chunk
        return output.decode(errors="replace")
