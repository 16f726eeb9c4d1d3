"""The timeline of a rotation: what happened when, as JSON lines in a file that several processes append to."""

import json
import time
from pathlib import Path
from typing import Any


class Timeline:
    """Writes and reads one file of steps. A step is {"at": seconds since the epoch, "step": ..., what it is about}."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def add(self, step: str, at: float | None = None, **about: object) -> None:
        """Append one step; one write, so that lines of several processes do not mix."""
        line = json.dumps({"at": time.time() if at is None else at, "step": step, **about}) + "\n"
        with self.file.open("a") as file:
            file.write(line)

    def find(self, step: str, **about: object) -> dict[str, Any] | None:
        """The first such step that agrees with all of ``about``."""
        for found in self.steps():
            if found["step"] == step and all(found.get(key) == value for key, value in about.items()):
                return found
        return None

    def steps(self) -> list[dict[str, Any]]:
        """All steps up to now."""
        if not self.file.exists():
            return []
        return [json.loads(line) for line in self.file.read_text().splitlines(keepends=True) if line.endswith("\n")]
