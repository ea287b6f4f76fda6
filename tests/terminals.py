"""A program on a pseudo-terminal, and the screen as a person would see it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from pathlib import Path

import pyte

__all__ = ["Terminal"]

ROOT = Path(__file__).parents[1]
_WAIT_S = 180.0  # costs time only where something never comes; a busy machine is slow


def _own_terminal(descriptor: int) -> None:
    """Make it the one that controls this process."""
    os.setsid()
    fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)


class Terminal:
    """A Python process on a terminal of its own.

    Args:
        stdin: a file that is piped in.

    Attributes:
        raw: all that it has written.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        home: Path,
        columns: int = 80,
        rows: int = 24,
        stdin: Path | None = None,
        **environment: str,
    ) -> None:
        given = {
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")]),
            "HOME": str(home),
            "XDG_STATE_HOME": str(home / "state"),
            "XDG_DATA_HOME": str(home / "data"),
            "XDG_CONFIG_HOME": str(home / "config"),
            "XDG_CACHE_HOME": str(home / "cache"),
            "TERM": "xterm-256color",
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
        }
        unwanted = ("NO_COLOR", "FORCE_COLOR", "EDITOR", "VISUAL", "COLUMNS", "LINES")
        kept = {name: value for name, value in os.environ.items() if name not in unwanted}
        self._end, terminal = pty.openpty()
        termios.tcsetwinsize(terminal, (rows, columns))
        self.raw = ""
        self._screen = pyte.HistoryScreen(columns, rows, history=10_000)
        self._stream = pyte.ByteStream(self._screen)
        with open(stdin or os.devnull, "rb") as piped:
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=piped if stdin else terminal,
                stdout=terminal,
                stderr=terminal,
                env=kept | given | environment,
                preexec_fn=lambda: _own_terminal(1),
            )
        os.close(terminal)

    @property
    def shown(self) -> str:
        """The visible rows, without blanks at their ends."""
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip()

    @property
    def scrolled(self) -> list[list[pyte.screens.Char]]:
        """The characters of the rows that have scrolled away."""
        columns = range(self._screen.columns)
        return [[row[column] for column in columns] for row in self._screen.history.top]

    @property
    def text(self) -> str:
        """Everything, what has scrolled away included."""
        rows = ["".join(cell.data for cell in row) for row in self.scrolled]
        return "\n".join([*(row.rstrip() for row in rows), self.shown])

    def cells(self, row: int) -> list[pyte.screens.Char]:
        """The characters of a visible row with their looks."""
        line = self._screen.buffer[row]
        return [line[column] for column in range(self._screen.columns)]

    def press(self, keys: str) -> None:
        """Type; a line is sent with `\\r`."""
        os.write(self._end, keys.encode(errors="surrogateescape"))

    def wait_for(
        self, text: str | re.Pattern[str], *, times: int = 1, within_s: float = _WAIT_S
    ) -> None:
        """Read until `text` stands on the screen or above it, so many times."""
        deadline_s = time.monotonic() + within_s
        pattern = re.compile(re.escape(text)) if isinstance(text, str) else text
        while len(pattern.findall(self.text)) < times:
            assert time.monotonic() < deadline_s, f"no {text!r} in:\n{self.text}"
            self.read(0.05)

    def wait_until_gone(self, text: str) -> None:
        """Read until `text` stands on the visible screen no more."""
        deadline_s = time.monotonic() + _WAIT_S
        while text in self.shown:
            assert time.monotonic() < deadline_s, f"{text!r} stays in:\n{self.shown}"
            self.read(0.05)

    def read(self, seconds: float) -> bool:
        """Take what is written within `seconds`; whether anything was."""
        if not select.select([self._end], [], [], seconds)[0]:
            return False
        try:
            written = os.read(self._end, 65_536)
        except OSError:  # the process has closed its side
            time.sleep(seconds)
            return False
        self.raw += written.decode(errors="replace")
        self._stream.feed(written)
        return True

    def settle(self, quiet_s: float = 0.3) -> None:
        """Read until nothing more is written for a while."""
        while self.read(quiet_s):
            pass

    def forget(self) -> None:
        """What has scrolled away is not part of `text` any more."""
        self._screen.history.top.clear()

    def resize(self, columns: int, rows: int) -> None:
        """Give the terminal another size."""
        termios.tcsetwinsize(self._end, (rows, columns))
        self._screen.resize(rows, columns)
        self.process.send_signal(signal.SIGWINCH)

    def leave(self) -> int:
        """Wait for the end; the exit code."""
        deadline_s = time.monotonic() + _WAIT_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline_s, f"it goes on:\n{self.text}"
            self.read(0.05)
        self.settle(0.05)
        return self.process.returncode

    def close(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.wait()
        os.close(self._end)
