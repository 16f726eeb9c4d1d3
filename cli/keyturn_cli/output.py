"""Output: tables, JSON and YAML on stdout; notes and progress on stderr.

On a terminal, the output has colours, and long lines are folded to the width of the terminal. In a pipe or a file, the
output has no colours, no line is folded, and blanks align the columns, as in kubectl. No information is shown by a
colour alone.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any

import yaml
from rich.cells import cell_len, set_cell_size
from rich.console import Console, RenderableType
from rich.text import Text

from keyturn_receiver.core.printable import printable

MIN_LAST = 24  # cells; if the last column would have fewer, the rows are written as blocks


class Format(StrEnum):
    """The form of the output."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # ``errors.reported`` ends the command; rich itself would end it with exit code 1


class Output:
    """Output of one command. Control characters are escaped, because texts from the cluster may contain them."""

    def __init__(self, form: Format = Format.TABLE, no_color: bool = False) -> None:
        self.form = form
        self.is_terminal = sys.stdout.isatty()
        plain = no_color or bool(os.environ.get("NO_COLOR")) or not self.is_terminal
        width = shutil.get_terminal_size().columns if self.is_terminal else 10_000
        self._out = _Console(
            file=sys.stdout, no_color=plain, highlight=False, width=width, soft_wrap=not self.is_terminal
        )
        self.err = _Console(file=sys.stderr, no_color=no_color or bool(os.environ.get("NO_COLOR")), highlight=False)

    @property
    def is_data(self) -> bool:
        """Whether the output is for programs: JSON or YAML."""
        return self.form is not Format.TABLE

    def data(self, content: Any) -> None:
        """Write JSON or YAML. ``content`` is made of dicts, lists, texts, numbers, booleans and None."""
        if self.form is Format.YAML:
            sys.stdout.write(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000))
        else:
            sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def line(self, text: str = "", style: str = "") -> None:
        """Write one line of text. ``style`` is a style of rich, such as "red"."""
        self._out.print(Text(printable(text), style), markup=False)

    def hanging(self, head: str, text: str, style: str = "") -> None:
        """Write a head and a text. On a terminal, the text is folded, and the lines after the first are indented."""
        lines = self._folded(printable(text), max(16, self._out.width - cell_len(head))) if self.is_terminal else [text]
        for number, line in enumerate(lines or [""]):
            self._write((head if number == 0 else " " * cell_len(head)) + printable(line), style)

    @staticmethod
    def plain(text: str) -> Text:
        """Return a text for rich, without markup and with control characters escaped."""
        return Text(printable(text))

    def show(self, content: RenderableType) -> None:
        """Write an object that rich can render. Its texts must not contain control characters."""
        self._out.print(content)

    def note(self, text: str) -> None:
        """Write a line for people to stderr. So JSON or YAML on stdout is not mixed with it."""
        self.err.print(Text(printable(text)), soft_wrap=True)

    def notes(self, texts: Iterable[str]) -> None:
        """Write notes, one per line. A note says what the output leaves out or assumes."""
        for text in texts:
            self.note(f"note: {text}")

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]], styles: Sequence[str] = ()) -> None:
        """Write a table. On a terminal, the last column is folded. If the last column would be narrower than MIN_LAST
        and than its longest text, each row is written as a block of lines. ``styles`` has a style of rich for each
        row."""
        texts = [[printable(each) for each in row] for row in rows]
        widths = [max(map(_width, column)) for column in zip(columns, *texts, strict=True)]
        room = self._out.width - sum(widths[:-1]) - 2 * (len(columns) - 1)
        each_style = [*styles, *[""] * (len(texts) - len(styles))]
        if self.is_terminal and room < min(MIN_LAST, widths[-1]):
            self._blocks(columns, texts, each_style)
            return
        for style, row in zip(["bold", *each_style], [list(columns), *texts], strict=True):
            head = "".join(_padded(text, width + 2) for text, width in zip(row[:-1], widths[:-1], strict=True))
            lines = self._folded(row[-1], room) if self.is_terminal else [row[-1]]
            for number, text in enumerate(lines or [""]):
                self._write((head if number == 0 else " " * cell_len(head)) + text, style)

    def row(self, row: Sequence[str], style: str = "") -> None:
        """Add a row to a table that is already written. Two blanks separate the texts."""
        self._write("  ".join(map(printable, row)), style)
        self.flush()

    def flush(self) -> None:
        """Write out the buffered text. A command calls this before it waits."""
        self._out.file.flush()

    def _blocks(self, columns: Sequence[str], rows: Sequence[Sequence[str]], styles: Sequence[str]) -> None:
        name_width = max(map(len, columns)) + 2
        room = max(1, self._out.width - name_width)
        for number, (row, style) in enumerate(zip(rows, styles, strict=True)):
            if number:
                self._write("", "")
            for column, text in zip(columns, row, strict=True):
                for line, part in enumerate(self._folded(text, room) or [""]):
                    self._write((column if line == 0 else "").ljust(name_width) + part, style)

    def _folded(self, text: str, width: int) -> list[str]:
        return [line.plain.rstrip() for line in Text(text).wrap(self._out, width)]

    def _write(self, line: str, style: str) -> None:
        if style and not self._out.no_color:
            self._out.print(Text(line.rstrip(), style, no_wrap=True, overflow="ignore"), crop=False)
        else:  # rich is not used here, because it takes a tenth of a millisecond per line
            self._out.file.write(line.rstrip() + "\n")


def _padded(text: str, width: int) -> str:
    return text.ljust(width) if text.isascii() else set_cell_size(text, width)


def _width(text: str) -> int:
    return len(text) if text.isascii() else cell_len(text)
