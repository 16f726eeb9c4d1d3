"""A terminal of a given width. It shows what a program writes, as pyte shows it."""

import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence

import pyte

LINES = 200


def show(command: Sequence[str], env: Mapping[str, str], columns: int, seconds: float = 60) -> pyte.Screen:
    """Run a program in a terminal to its end, and return the screen."""
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, columns, 0, 0))
    process = subprocess.Popen(command, env=env, stdin=other, stdout=other, stderr=other, start_new_session=True)
    os.close(other)
    screen = pyte.Screen(columns, LINES)
    stream = pyte.ByteStream(screen)
    try:
        while chunk := os.read(main, 1 << 16):
            stream.feed(chunk)
    except OSError:  # EIO: the program has closed the terminal
        pass
    finally:
        os.close(main)
        process.wait(seconds)
    return screen


def text_of(screen: pyte.Screen) -> list[str]:
    """Return the lines of a screen, without the empty ones at its end."""
    lines = [line.rstrip() for line in screen.display]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def color_of(screen: pyte.Screen, text: str) -> str:
    """Return the colour that a text has where it first appears on the screen."""
    for number, line in enumerate(screen.display):
        if (column := line.find(text)) >= 0:
            return str(screen.buffer[number][column].fg)
    raise AssertionError(f"{text} is not on the screen")
