"""/image, /file and /paste: what goes along with the next message."""

from __future__ import annotations

from rqchat.cli.chat.chat import Chat
from rqchat.cli.chat.slash.registry import PATHS, Command
from rqchat.engine.inputs.clipboard import read_clipboard
from rqchat.engine.inputs.documents import Document
from rqchat.engine.inputs.reference_paths import split_references
from rqchat.errors import UsageError
from rqchat.ui.editor.folded_pastes import FOLD_CHARACTERS

__all__ = ["COMMANDS"]


def _image(chat: Chat, argument: str) -> None:
    for reference in _some_references(argument, "/image cat.png"):
        chat.attach_picture(reference)


def _file(chat: Chat, argument: str) -> None:
    for reference in _some_references(argument, "/file notes.txt"):
        chat.attach_documents(reference)


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
