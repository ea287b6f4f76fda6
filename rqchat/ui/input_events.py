"""What is said on the screen while files, folders and URLs are read."""

from __future__ import annotations

from collections.abc import Sequence

from rqchat.engine.events import FilesRead, InputEvent, InputNotice, InputProgress
from rqchat.ui.console import Screen
from rqchat.ui.text import format_count

__all__ = ["show_input_event"]

_NAMED_FILES = 8


def show_input_event(screen: Screen, event: InputEvent) -> None:
    """A status line for what takes time, a note for what was read, a warning for what was not."""
    match event:
        case InputProgress(is_over=True):
            screen.clear_status()
        case InputProgress("waiting for", name) if not screen.can_rewrite:
            screen.note(f"waiting for {name}, which has not ended yet")
        case InputProgress(step, name):
            screen.status(f"{step} {name}")
        case InputNotice(text):
            screen.note(text, style="warning")
        case FilesRead(reference, names, left_out, encoding):
            screen.note(_list(reference, "read:", names))
            if left_out:
                what = f"left out, neither text in {encoding.upper()} nor a picture:"
                screen.note(_list(reference, what, left_out), style="warning")


def _list(reference: str, what: str, names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED_FILES])
    more = len(names) - _NAMED_FILES
    rest = f" and {format_count(more)} more" if more > 0 else ""
    files = f"{format_count(len(names))} file{'' if len(names) == 1 else 's'}"
    return f"{reference}: {files} {what} {shown}{rest}"
