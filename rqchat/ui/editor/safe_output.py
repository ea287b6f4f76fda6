"""The line editor's way to the terminal: its own sequences, and of all texts only what is shown.

prompt-toolkit takes escape characters out of texts, and nothing else that a terminal acts on.
"""

from __future__ import annotations

import sys
from typing import cast

from prompt_toolkit.application.current import get_app_session
from prompt_toolkit.output import Output
from prompt_toolkit.output.vt100 import Vt100_Output

from rqchat.ui.text import safe_text

__all__ = ["open_output"]


class _SafeOutput(Vt100_Output):
    """Every text on its way out: what is typed, completions, file names, the status line."""

    def write(self, data: str) -> None:
        is_move = not data.strip("\r\n")  # the renderer's own, to the next line or back
        super().write(data if is_move else safe_text(data))


def open_output() -> Output:
    """The terminal of this session, or what a test has put in its place."""
    output = get_app_session().output
    if not isinstance(output, Vt100_Output):
        return output
    safe = _SafeOutput.from_pty(
        sys.stdout,
        term=output.term,
        default_color_depth=output.default_color_depth,
        enable_bell=output.enable_bell,
    )
    safe.enable_cpr = False  # its answer would be one more thing to wait for
    return cast(Output, safe)
