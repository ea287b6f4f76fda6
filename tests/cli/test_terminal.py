"""The chat as a process on a real terminal: keys in, screen out, Ctrl-C as a signal."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PROGRAM = """
import itertools, sys, time
sys.path.insert(0, {here!r})
from conftest import FakeSession
from rqchat.cli import app, opening

def endless():
    for number in itertools.count():
        time.sleep(0.01)
        yield f"word{{number}} "

def open_fake(settings, system, on_event):
    return fake

fake = FakeSession()
fake.script = endless()
opening.open_session = open_fake
app.main([])
"""


class Terminal:
    """A process on a pseudo-terminal of 80 columns, and all that it has written."""

    def __init__(self, folder: Path) -> None:
        root = HERE.parents[1]
        path = os.pathsep.join([str(root), str(root / "kernels")])
        given = {"PYTHONPATH": path, "XDG_STATE_HOME": str(folder), "TERM": "xterm"}
        self._end, terminal = pty.openpty()
        termios.tcsetwinsize(terminal, (24, 80))
        self.seen = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(here=str(HERE))],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env=os.environ | given,
            preexec_fn=lambda: os.login_tty(0),
        )
        os.close(terminal)

    def press(self, keys: str) -> None:
        os.write(self._end, keys.encode())

    def wait_for(self, pattern: str) -> None:
        """Reads until `pattern` has been written, or fails after some seconds."""
        deadline_s = time.monotonic() + 20
        while not re.search(pattern, self.seen):
            assert time.monotonic() < deadline_s, self.seen
            self._read()

    def leave(self) -> int:
        """The exit code, with the terminal drained meanwhile."""
        deadline_s = time.monotonic() + 20
        while self.process.poll() is None:
            assert time.monotonic() < deadline_s, self.seen
            self._read()
        return self.process.returncode

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._end)

    def _read(self) -> None:
        if not select.select([self._end], [], [], 0.05)[0]:
            return
        try:
            written = os.read(self._end, 65_536).decode(errors="replace")
        except OSError:  # the process has closed its side
            return
        self.seen += written
        if "\x1b[6n" in written:  # where is the cursor?
            self.press("\x1b[1;1R")


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    running = Terminal(tmp_path)
    yield running
    running.close()


def test_ctrl_c_stops_the_answer_and_the_chat_goes_on(terminal: Terminal) -> None:
    terminal.wait_for(r"4-bit KV")
    terminal.press("Hello\r")
    terminal.wait_for(r"word3 ")
    terminal.press("/stats\r")
    terminal.press("\x03")
    terminal.wait_for(r"\[interrupted: the answer is not complete\]")
    terminal.wait_for(r"stopped by interrupted")
    terminal.press("\x04")
    assert terminal.leave() == 0
    assert "^C" not in terminal.seen
