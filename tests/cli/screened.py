"""The chat as a program on a terminal, to be typed into line by line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.terminals import Terminal

__all__ = ["Chat", "program"]


class Chat(Terminal):
    """The program in a home of its own."""

    def __init__(self, home: Path, *options: str, **changes: Any) -> None:
        size: dict[str, Any] = {"columns": 100, "rows": 40, **changes}
        super().__init__(["-m", "rqchat", *options], home=home, **size)
        self.home = home

    def say(self, line: str, *expected: str) -> str:
        """Send `line` and wait for what it is answered with; the screen from the line on."""
        self.clean()
        self.press(f"{line}\r")
        for text in expected:
            self.wait_for(text)
        self.settle(0.1)
        return self.text

    def clean(self) -> None:
        """An empty screen but for the prompt, by Ctrl-L."""
        self.settle(0.05)
        self.press("\x0c")
        self.settle(0.1)
        self.forget()


def program(folder: Path, name: str, script: str) -> None:
    """A shell script on a PATH of the test's own, in place of a program of the desktop."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)
