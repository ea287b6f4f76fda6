"""Copies text to the clipboard: with a program where there is a desktop, else via the terminal.

The terminal is asked with OSC 52 (xterm, ctlseqs), which works over ssh too; it does not answer,
so whether it copied the text cannot be known.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
from collections.abc import Mapping

from rqchat.errors import RqchatError

__all__ = ["write_clipboard"]

_LIMIT_S = 5.0
_OSC_52_CHARACTERS = 100_000  # of base64; xterm and tmux take no more


def write_clipboard(text: str) -> str:
    """Copies `text`; returns how: `with wl-copy`, `through the terminal`.

    Raises:
        RqchatError: it is too long for the terminal, and there is no program for it.
    """
    for command in _programs(os.environ):
        if shutil.which(command[0]) and _copied(command, text):
            return f"with {command[0]}"
    encoded = base64.b64encode(text.encode()).decode()
    if len(encoded) > _OSC_52_CHARACTERS:
        raise RqchatError(
            f"{len(text):,} characters are too many for the terminal; install wl-copy or xclip"
        )
    try:
        with open("/dev/tty", "w", encoding="ascii") as terminal:
            terminal.write(f"\x1b]52;c;{encoded}\x07")
    except OSError:
        raise RqchatError("there is neither a clipboard program nor a terminal") from None
    return "through the terminal"


def _programs(environment: Mapping[str, str]) -> list[list[str]]:
    """The programs to try, those of the desktop that the user sits at first."""
    programs = [["pbcopy"], ["clip.exe"]]  # macOS; Windows, within its Linux subsystem too
    if environment.get("DISPLAY"):
        programs.insert(0, ["xclip", "-selection", "clipboard"])
    if environment.get("WAYLAND_DISPLAY"):
        programs.insert(0, ["wl-copy"])
    return programs


def _copied(command: list[str], text: str) -> bool:
    # UTF-16 is what Windows' clip.exe reads without a code page
    data = text.encode("utf-16-le") if command[0] == "clip.exe" else text.encode()
    try:
        done = subprocess.run(
            command,
            input=data,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_LIMIT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
