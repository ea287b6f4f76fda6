"""What the chat's screen costs: the prompt's start, a keystroke's echo, and drawing an answer.

All of it on a pseudo-terminal of 100 x 30, where a person would wait.
"""

from __future__ import annotations

import json
import os
import pty
import select
import statistics
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from rqchat.bench.store import fill_store

__all__ = ["Terminal", "run_screen"]

_KEYS = "".join(chr(0x410 + index) for index in range(40))  # Cyrillic: no answer has them
_WAIT_S = 60.0


class Terminal:
    """A Python program on a pseudo-terminal."""

    def __init__(self, arguments: Sequence[str], **environment: str) -> None:
        self._end, terminal = pty.openpty()
        termios.tcsetwinsize(terminal, (30, 100))
        self.begun_s = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env=os.environ | {"TERM": "xterm-256color"} | environment,
            preexec_fn=lambda: os.login_tty(0),
        )
        os.close(terminal)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._end)

    def press(self, keys: str) -> None:
        """Types the keys."""
        os.write(self._end, keys.encode())

    def wait_for(self, text: str, *, until: str = "") -> str:
        """What is written from `text` on, up to `until`.

        Raises:
            TimeoutError: it never was.
        """
        begun_s, seen = time.perf_counter(), ""
        while text not in seen or until not in seen.partition(text)[2]:
            if time.perf_counter() - begun_s > _WAIT_S:
                raise TimeoutError(f"no {text!r} in {seen[-2000:]!r}")
            if select.select([self._end], [], [], 1)[0]:
                seen += os.read(self._end, 65_536).decode(errors="replace")
        return seen.partition(text)[2].partition(until)[0] if until else text


def run_screen(model: str, runs: int) -> None:
    """Measure and print."""
    starts = [_starts_s(model) for _ in range(runs + 1)][1:]
    with tempfile.TemporaryDirectory() as folder:
        fill_store(Path(folder) / "rqchat" / "conversations.db", 1)
        more = {"XDG_DATA_HOME": folder}
        resumed = [_starts_s(model, "-c", **more) for _ in range(runs + 1)][1:]
    echoes = sorted(_echoes_s(model))
    shares = [_drawing_share() for _ in range(runs)]
    record = {
        "prompt_shown_s": _summary([shown for shown, _ in starts]),
        "first_key_shown_s": _summary([typed for _, typed in starts]),
        "first_key_shown_with_-c_s": _summary([typed for _, typed in resumed]),
        "echo_while_answering_s": {
            "median": statistics.median(echoes),
            "95th": echoes[int(0.95 * len(echoes))],
            "highest": echoes[-1],
        },
        "drawing_share_at_100_tokens_per_s": _summary(shares),
        "keys": len(echoes),
        "runs": runs,
        "model": model,
    }
    for name, figures in list(record.items())[:5]:
        sys.stdout.write(f"{name:36} {figures}\n")
    sys.stdout.write(json.dumps(record) + "\n")


def _summary(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "highest": max(values)}


def _starts_s(model: str, *options: str, **environment: str) -> tuple[float, float]:
    """Seconds from the start of the process to the prompt, and to the first key on the screen.

    The key is typed as soon as the prompt is there, while the model is loading behind it.
    """
    arguments = ["-m", "rqchat", "--model", model, *options]
    with Terminal(arguments, **environment) as terminal:
        terminal.wait_for("\x1b[?2004h")  # the line editor's, which takes keys from then on
        shown_s = time.perf_counter() - terminal.begun_s
        terminal.press(_KEYS[0])
        terminal.wait_for(_KEYS[0])
        return shown_s, time.perf_counter() - terminal.begun_s


def _echoes_s(model: str) -> list[float]:
    """Seconds from each key to its echo while a long answer comes."""
    with Terminal(["-m", "rqchat", "--model", model]) as terminal:
        terminal.wait_for("KV")
        # So hot that the answer does not end by itself
        for line in ("/set temperature 9", "/set top-p 1", "/set top-k 0", "/set max-tokens 3000"):
            terminal.press(line + "\r")
            time.sleep(0.3)
        terminal.press("Who are you?\r")
        time.sleep(1.0)
        echoes = []
        for key in _KEYS:
            time.sleep(0.037)
            terminal.press(key)
            begun_s = time.perf_counter()
            terminal.wait_for(key)
            echoes.append(time.perf_counter() - begun_s)
        return echoes


def _drawing_share() -> float:
    """Processor seconds of drawing for each second of an answer that comes at 100 tokens/s."""
    with Terminal(["-m", "rqchat.bench.drawing"]) as terminal:
        return float(terminal.wait_for("share=", until=";"))
