"""/image and /file: what goes along with the next message."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rqchat.cli.paths import split_references
from rqchat.cli.slash.registry import PATHS, Command
from rqchat.errors import UsageError

if TYPE_CHECKING:
    from rqchat.cli.chat import Chat

__all__ = ["COMMANDS"]


def _image(chat: Chat, argument: str) -> None:
    for reference in _some_references(argument, "/image cat.png"):
        chat.attach_picture(reference)


def _file(chat: Chat, argument: str) -> None:
    for reference in _some_references(argument, "/file notes.txt"):
        chat.attach_documents(reference)


def _some_references(argument: str, example: str) -> tuple[str, ...]:
    if not argument:
        raise UsageError(f"which one? for example: {example}")
    return split_references(argument)


COMMANDS = (
    Command("/image", "PATH...", "attach pictures, of files or URLs", _image, PATHS),
    Command("/file", "PATH...", "attach text, source, PDF, HTML, folders, URLs", _file, PATHS),
)
