"""What the keys of the line editor do, beyond what prompt-toolkit gives them."""

from __future__ import annotations

from typing import Protocol

from prompt_toolkit.application.current import get_app
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import Condition, emacs_mode, has_focus
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys

__all__ = ["Actions", "make_bindings"]


class Actions(Protocol):
    """Whatever the keys act on."""

    def send(self, event: KeyPressEvent) -> None:
        """Hand over what is typed."""

    def interrupt(self, event: KeyPressEvent) -> None:
        """Stop, clear, or leave."""

    def cancel(self, event: KeyPressEvent) -> None:
        """Stop the answer."""

    def is_working(self) -> bool:
        """Whether there is an answer to stop."""

    def paste(self, event: KeyPressEvent) -> None:
        """Insert what the terminal pasted."""

    def rub_out(self, event: KeyPressEvent) -> None:
        """Delete the character before the cursor, or all of a chip."""

    def edit(self, event: KeyPressEvent) -> None:
        """Open what is typed in the user's editor."""


def make_bindings(actions: Actions) -> KeyBindings:
    """The bindings; they hold while the line itself is edited, not while history is searched."""
    bindings = KeyBindings()
    editing = has_focus(DEFAULT_BUFFER)
    bindings.add("enter", filter=editing)(actions.send)
    bindings.add("c-c", filter=editing)(actions.interrupt)
    # A signal from outside, such as `kill -INT`: the key itself is `c-c`.
    bindings.add("<sigint>")(actions.interrupt)
    bindings.add(Keys.BracketedPaste, filter=editing)(actions.paste)
    bindings.add("backspace", filter=editing & emacs_mode)(actions.rub_out)
    bindings.add("c-x", "c-e", filter=editing)(actions.edit)
    # At once, and not after the time in which more keys might make another binding of it
    bindings.add(
        "escape",
        filter=editing & emacs_mode & Condition(actions.is_working) & Condition(_is_alone),
        eager=True,
    )(actions.cancel)

    @bindings.add("escape", "enter", filter=editing)
    @bindings.add("c-j", filter=editing)
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return bindings


def _is_alone() -> bool:
    """Whether Esc came by itself: terminals write it in front of a key that Alt is held for."""
    return not get_app().key_processor.input_queue
