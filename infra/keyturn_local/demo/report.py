"""Output of the demo: timelines, claims, and the verdict. It never contains a secret value."""

import sys
from dataclasses import dataclass, field

_COLOUR = sys.stdout.isatty()


def say(text: str = "") -> None:
    """Print a line and flush it, so that a pipe gets it at once."""
    print(text, flush=True)


def heading(text: str) -> None:
    """Print a title."""
    say(f"\n{_bold(text)}")


def step(name: str, milliseconds: float | None, note: str = "") -> None:
    """Print one step of a timeline, with its time in milliseconds since the move of the staging label."""
    time = "       -" if milliseconds is None else f"{round(milliseconds):8d}"
    say(f"  {time} ms  {name}" + (f"  ({note})" if note else ""))


@dataclass
class Claims:
    """The claims that the demo has checked, each with the result."""

    results: list[tuple[bool, str]] = field(default_factory=list)

    def check(self, held: bool, text: str) -> None:
        """Record one claim, and print it."""
        self.results.append((held, text))
        say(f"  {_mark(held)}  {text}")

    def conclude(self) -> int:
        """Print the verdict. Return the exit status."""
        broken = [text for held, text in self.results if not held]
        heading(f"Verdict: {len(self.results) - len(broken)} of {len(self.results)} claims held")
        for text in broken:
            say(f"  {_mark(False)}  {text}")
        return 1 if broken or not self.results else 0


def _mark(held: bool) -> str:
    word, colour = ("held  ", "32") if held else ("BROKEN", "31")
    return f"\033[{colour}m{word}\033[0m" if _COLOUR else word


def _bold(text: str) -> str:
    return f"\033[1m{text}\033[0m" if _COLOUR else text
