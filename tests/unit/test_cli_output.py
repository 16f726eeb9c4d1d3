"""What the command line writes: tables for pipes and terminals, JSON, YAML."""

import json
import os

import pytest
import yaml

from keyturn_cli.output import Format, Output

COLUMNS = ("NAMESPACE", "SECRET", "STATUS")
ROWS = [
    ("shop", "db", "ok"),
    ("a-long-namespace", "x", "InvalidValue: the AWS secret has no property pasword: correct the binding"),
]


class Terminal:
    """A pseudo-terminal in place of stdout."""

    def __init__(self, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
        import fcntl
        import struct
        import sys
        import termios

        self._main, other = os.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        self.file = os.fdopen(other, "w")
        monkeypatch.setattr(sys, "stdout", self.file)
        monkeypatch.setattr(sys, "__stdout__", self.file)
        monkeypatch.setenv("TERM", "xterm")
        for name in ("NO_COLOR", "COLUMNS"):
            monkeypatch.delenv(name, raising=False)

    def written(self) -> str:
        self.file.write("\0")
        self.file.flush()
        text = b""
        while not text.endswith(b"\0"):
            text += os.read(self._main, 1 << 16)
        self.file.close()
        os.close(self._main)
        return text[:-1].decode().replace("\r\n", "\n")


def test_table_in_a_pipe_is_aligned_and_has_whole_lines(capsys: pytest.CaptureFixture[str]) -> None:
    Output().table(COLUMNS, ROWS, ["", "red"])
    assert capsys.readouterr().out.splitlines() == [
        "NAMESPACE         SECRET  STATUS",
        "shop              db      ok",
        f"a-long-namespace  x       {ROWS[1][2]}",
    ]


def test_terminal_folds_the_last_column(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(60, monkeypatch)
    Output(no_color=True).table(COLUMNS, ROWS)
    lines = terminal.written().splitlines()
    assert max(map(len, lines)) <= 60
    assert lines[2].startswith("a-long-namespace  x       InvalidValue: the AWS")
    assert lines[3].startswith(" " * 26 + "no property")


def test_narrow_terminal_gets_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(40, monkeypatch)
    Output(no_color=True).table(COLUMNS, ROWS)
    lines = terminal.written().splitlines()
    assert max(map(len, lines)) <= 40
    assert lines[:4] == ["NAMESPACE  shop", "SECRET     db", "STATUS     ok", ""]
    assert "".join(lines).replace(" ", "").endswith("correctthebinding")


def test_terminal_gets_colours_and_a_pipe_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Output().line("bad", "red")
    assert capsys.readouterr().out == "bad\n"
    terminal = Terminal(80, monkeypatch)
    Output().line("bad", "red")
    assert terminal.written() == "\x1b[31mbad\x1b[0m\n"


@pytest.mark.parametrize("by", ["option", "variable"])
def test_colours_can_be_turned_off(monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    terminal = Terminal(80, monkeypatch)
    if by == "variable":
        monkeypatch.setenv("NO_COLOR", "1")
    Output(no_color=by == "option").line("bad", "red")
    assert terminal.written() == "bad\n"


def test_text_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output()
    out.line("a\x1b[2Jb [red]c")
    out.table(("A", "B"), [("[bold]x", "y\nz")])
    assert capsys.readouterr().out == "a\\x1b[2Jb [red]c\nA        B\n[bold]x  y\\nz\n"


def test_wide_characters_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    Output().table(("A", "B"), [("日本", "x"), ("a", "y")])
    assert capsys.readouterr().out == "A     B\n日本  x\na     y\n"


@pytest.mark.parametrize(("form", "load"), [(Format.JSON, json.loads), (Format.YAML, yaml.safe_load)])
def test_data_is_read_back(capsys: pytest.CaptureFixture[str], form: Format, load: object) -> None:
    content = {"items": [{"name": "é\x1b", "count": 1, "at": None, "ok": True}], "empty": []}
    Output(form).data(content)
    assert callable(load)
    assert load(capsys.readouterr().out) == content
