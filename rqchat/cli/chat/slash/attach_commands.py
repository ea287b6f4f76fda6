"""/image, /file and /paste: what goes along with the next message."""

from __future__ import annotations

import mimetypes
from typing import TYPE_CHECKING

from rqchat.cli.chat.slash.registry import PATHS, Command
from rqchat.engine.inputs.clipboard import read_clipboard
from rqchat.engine.inputs.documents import Document
from rqchat.engine.inputs.references import split_paths, split_references
from rqchat.errors import UsageError
from rqchat.ui.editor.folded_pastes import FOLD_CHARACTERS

if TYPE_CHECKING:
    from rqchat.cli.chat.chat import Chat

__all__ = ["COMMANDS", "attach_dropped"]


def _image(chat: Chat, argument: str) -> None:
    for reference in _some_references(argument, "/image cat.png"):
        chat.attach_picture(reference)


def _file(chat: Chat, argument: str) -> None:
    for reference in _some_references(argument, "/file notes.txt"):
        chat.attach_documents(reference)


def attach_dropped(chat: Chat, line: str) -> bool:
    """Attach a line that is nothing but existing files, as terminals paste dropped ones."""
    if not line.startswith(("/", "~", "'", '"', "file://")) or "\n" in line:
        return False
    try:
        paths = split_paths(line)
    except UsageError:
        return False
    if not all(path.is_file() for path in paths):
        return False
    for path in paths:
        kind = mimetypes.guess_type(path.name)[0] or ""
        is_picture = kind.startswith("image/")
        (chat.attach_picture if is_picture else chat.attach_documents)(str(path))
    return True


def _paste(chat: Chat, argument: str) -> None:
    item = read_clipboard()
    if isinstance(item, Document) and len(item.text) < FOLD_CHARACTERS:
        chat.type(item.text)
    else:
        chat.attach(item)


def _some_references(argument: str, example: str) -> tuple[str, ...]:
    if not argument:
        raise UsageError(f"which one? for example: {example}")
    return split_references(argument)


COMMANDS = (
    Command("/image", "PATH...", "attach pictures, of files or URLs", _image, PATHS),
    Command(
        "/file",
        "PATH...",
        "attach text, source, PDF, HTML, folders, URLs",
        _file,
        PATHS,
        aliases=("/read", "/attach", "/add"),
    ),
    Command("/paste", "", "attach the clipboard; a short text is typed", _paste),
)
