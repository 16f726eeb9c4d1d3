"""Samples of output in docs/cli.md, compared with what the command line prints."""

import os
import re
from collections.abc import Callable, Mapping, Sequence

from keyturn_local.docs import cli_help


def hold_samples(texts: Mapping[str, str]) -> None:
    """Check that each output has the lines of the page's sample of the same name. The first line of an output is the
    command.

    With KEYTURN_WRITE_SAMPLES=1, write the outputs into the page instead.
    """
    page = cli_help.PAGE.read_text()
    if os.environ.get("KEYTURN_WRITE_SAMPLES"):
        cli_help.PAGE.write_text(cli_help.with_blocks(page, "sample", dict(texts)))
        return
    samples = cli_help.blocks(page, "sample")
    for name, text in texts.items():
        # The order of two legs of a trace may change from run to run, so the order of the lines does not count.
        same = sorted(samples[name].splitlines()) == sorted(text.splitlines())
        assert same, f"KEYTURN_WRITE_SAMPLES=1 writes the samples: {text}"


def replaced(text: str, names: Mapping[str, str], patterns: Sequence[tuple[str, str]]) -> str:
    """Replace the texts that differ in each run by the texts of the page: first the names of the run, and then the
    texts that match the patterns."""
    for own, shown in names.items():
        text = text.replace(own, shown)
    for pattern, shown in patterns:
        text = re.sub(pattern, shown, text, flags=re.MULTILINE)
    return text


def aligned(text: str, is_row: Callable[[str], bool]) -> str:
    """Make the columns of a table as wide as its present texts need. Before ``replaced``, they were as wide as the
    texts of the run needed."""
    lines = text.splitlines()
    table = [line for line in lines if is_row(line)]
    rows = [re.split(r" {2,}", line) for line in table]
    if not table or len({len(row) for row in rows}) != 1:
        return "\n".join(lines) + "\n"
    widths = [max(map(len, column)) + 2 for column in zip(*rows, strict=True)]
    padded = iter("".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(next(padded) if is_row(line) else line for line in lines) + "\n"
