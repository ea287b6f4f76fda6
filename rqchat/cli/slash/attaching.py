"""/image and /file: what goes along with the next message."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rqchat.cli.paths import split_paths
from rqchat.cli.slash.registry import PATHS, Command
from rqchat.engine.documents import read_document
from rqchat.engine.images import read_picture
from rqchat.errors import UsageError

if TYPE_CHECKING:
    from rqchat.cli.chat import Chat

__all__ = ["COMMANDS"]


def _image(chat: Chat, argument: str) -> None:
    for path in _some_paths(argument, "/image cat.png"):
        chat.attach(read_picture(path))


def _file(chat: Chat, argument: str) -> None:
    for path in _some_paths(argument, "/file notes.txt"):
        chat.attach(read_document(path))


def _some_paths(argument: str, example: str) -> tuple[Path, ...]:
    if not argument:
        raise UsageError(f"which one? for example: {example}")
    return split_paths(argument)


COMMANDS = (
    Command("/image", "PATH...", "attach pictures to the next message", _image, PATHS),
    Command("/file", "PATH...", "attach text files to the next message", _file, PATHS),
)
