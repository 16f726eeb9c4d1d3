"""What the demo prints: timelines, claims, and the verdict. Never a value."""

import sys
from dataclasses import dataclass, field

_COLOUR = sys.stdout.isatty()


def say(text: str = "") -> None:
    """Print a line at once, also into a pipe."""
    print(text, flush=True)


def heading(text: str) -> None:
    """Print the title of an act."""
    say(f"\n{_bold(text)}")


def step(what: str, milliseconds: float | None, note: str = "") -> None:
    """Print one step of a timeline, in milliseconds since the label moved."""
    when = "       -" if milliseconds is None else f"{round(milliseconds):8d}"
    say(f"  {when} ms  {what}" + (f"  ({note})" if note else ""))


@dataclass
class Verdict:
    """The claims, each held or broken."""

    claims: list[tuple[bool, str]] = field(default_factory=list)

    def claim(self, held: bool, text: str) -> None:
        """Record one claim, and print it."""
        self.claims.append((held, text))
        say(f"  {_mark(held)}  {text}")

    def conclude(self) -> int:
        """Print the verdict; return the exit status."""
        broken = [text for held, text in self.claims if not held]
        heading(f"Verdict: {len(self.claims) - len(broken)} of {len(self.claims)} claims held")
        for text in broken:
            say(f"  {_mark(False)}  {text}")
        return 1 if broken or not self.claims else 0


def _mark(held: bool) -> str:
    word, colour = ("held  ", "32") if held else ("BROKEN", "31")
    return f"\033[{colour}m{word}\033[0m" if _COLOUR else word


def _bold(text: str) -> str:
    return f"\033[1m{text}\033[0m" if _COLOUR else text
