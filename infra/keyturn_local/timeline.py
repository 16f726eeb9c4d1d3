"""The timeline of rotations. Several processes append steps, each with its time, to one file of JSON lines."""

import json
import time
from pathlib import Path
from typing import Any


class Timeline:
    """A timeline in one file. Each step is {"at": seconds since the epoch, "step": its name, further fields}."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def add(self, step: str, at: float | None = None, **fields: object) -> None:
        """Append one step in a single write, so that the lines of several processes do not get mixed up."""
        line = json.dumps({"at": time.time() if at is None else at, "step": step, **fields}) + "\n"
        with self.file.open("a") as file:
            file.write(line)

    def find(self, step: str, **fields: object) -> dict[str, Any] | None:
        """Return the first step with this name and these fields, or None."""
        for entry in self.steps():
            if entry["step"] == step and all(entry.get(key) == value for key, value in fields.items()):
                return entry
        return None

    def steps(self) -> list[dict[str, Any]]:
        """Return all steps so far."""
        if not self.file.exists():
            return []
        return [json.loads(line) for line in self.file.read_text().splitlines(keepends=True) if line.endswith("\n")]
