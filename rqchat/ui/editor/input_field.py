"""The field that the user types in, with a region above it and the status line below."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from prompt_toolkit import PromptSession
from prompt_toolkit.application import Application, create_app_session
from prompt_toolkit.completion import Completer
from prompt_toolkit.filters import Condition, is_done
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import History
from prompt_toolkit.input import Input, create_input
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.layout import ConditionalContainer, Container, HSplit, Window
from prompt_toolkit.layout.controls import FormattedTextControl
from prompt_toolkit.output.plain_text import PlainTextOutput
from prompt_toolkit.styles import Style
from prompt_toolkit.utils import is_dumb_terminal

from rqchat.errors import InputError
from rqchat.ui.editor.safe_output import open_output
from rqchat.ui.looks.theme import Theme

__all__ = ["PROMPT", "open_field"]

PROMPT: StyleAndTextTuples = [("class:prompt", "> ")]
_MENU_ROWS = 8
_ESCAPE_S = 0.05
_OTHER_ROWS = 3  # what is typed, the status line, and one above


def open_field(
    *,
    history: History,
    completer: Completer,
    bindings: KeyBindings,
    above: Container,
    status: Callable[[], StyleAndTextTuples],
    vi: bool,
    from_terminal: bool,
    theme: Theme,
) -> PromptSession[str]:
    """The field, with `above` over it and the line `status` under it.

    Args:
        from_terminal: read keys from the terminal although standard input is something else.
        theme: the colours.

    Raises:
        InputError: `from_terminal` where there is no terminal.
    """
    # Even to a dumb terminal prompt-toolkit's own output writes that the cursor be shown
    output = PlainTextOutput(sys.stdout) if is_dumb_terminal() else open_output()
    with create_app_session(output=output):
        field: PromptSession[str] = PromptSession(
            history=history,
            completer=completer,
            complete_while_typing=Condition(lambda: _is_command(field.default_buffer.text)),
            key_bindings=bindings,
            multiline=True,
            prompt_continuation=[("class:continuation", "  ")],
            style=Style.from_dict(theme.prompt_styles),
            vi_mode=vi,
            input=_terminal_keys() if from_terminal else None,
            enable_suspend=True,
            tempfile_suffix=".md",
            reserve_space_for_menu=_MENU_ROWS,
        )

    def reserve_rows(app: Application[str]) -> None:
        """For the menu, as far as the terminal has any; without it nothing would be shown."""
        rows = app.output.get_size().rows - _OTHER_ROWS
        field.reserve_space_for_menu = max(0, min(_MENU_ROWS, rows))

    field.app.before_render += reserve_rows
    # A key after Esc within this time is one with Alt; arrow keys come in one piece
    field.app.ttimeoutlen = _ESCAPE_S
    line = Window(FormattedTextControl(status), height=1, style="class:status")
    layout = field.layout
    # What was sent stays in a band of its own, so that turns are told apart at a glance
    turn = HSplit([layout.container], style=lambda: "class:turn" if field.app.is_done else "")
    layout.container = HSplit([above, turn, ConditionalContainer(line, ~is_done)])
    return field


def _is_command(text: str) -> bool:
    return text.startswith("/") and "\n" not in text


def _terminal_keys() -> Input:
    """The keyboard of the controlling terminal.

    Raises:
        InputError: there is none.
    """
    try:
        return create_input(os.fdopen(os.open("/dev/tty", os.O_RDONLY)))
    except OSError:
        raise InputError("there is no terminal to type in; use rqchat ask instead") from None
