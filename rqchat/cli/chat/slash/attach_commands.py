"""/image, /file, /paste and /detach: what goes along with the next message."""

from __future__ import annotations

import re

from rqchat.cli.chat.chat import Chat
from rqchat.cli.chat.slash.registry import PATHS, Command, words
from rqchat.engine.inputs.clipboard import read_clipboard
from rqchat.engine.inputs.documents import Document
from rqchat.engine.inputs.pdf import PageRanges
from rqchat.engine.inputs.reference_paths import split_question
from rqchat.errors import UsageError
from rqchat.ui.editor.folded_pastes import FOLD_CHARACTERS

__all__ = ["COMMANDS"]

_PAGES = re.compile(r"--pages[ =]\s*(\S+)\s*")


def _image(chat: Chat, argument: str) -> None:
    references, question = _references_and_question(argument, "/image cat.png")
    for reference in references:
        chat.attach_picture(reference)
    if question:
        chat.ask(question)


def _file(chat: Chat, argument: str) -> None:
    pages = None
    if found := _PAGES.match(argument):
        pages, argument = PageRanges.parse(found[1]), argument[found.end() :]
    references, question = _references_and_question(argument, "/file notes.txt")
    for reference in references:
        chat.attach_files(reference, pages)
    if question:
        chat.ask(question)


def _paste(chat: Chat, argument: str) -> None:
    item = read_clipboard()
    if isinstance(item, Document) and len(item.text) < FOLD_CHARACTERS:
        chat.type(item.text)
    else:
        chat.attach(item)


def _detach(chat: Chat, argument: str) -> None:
    for each in chat.attachments.remove(argument):
        chat.say(f"detached {each.label}")


def _references_and_question(argument: str, example: str) -> tuple[tuple[str, ...], str]:
    if not argument:
        raise UsageError(f"which one? for example: {example}")
    return split_question(argument)


COMMANDS = (
    Command(
        "/image", "PATH... [TEXT]", "attach pictures, of files or URLs; ask TEXT", _image, PATHS
    ),
    Command(
        "/file",
        "PATH... [TEXT]",
        "attach text, PDF (--pages 3-9 before it), HTML, pictures, folders, URLs; ask TEXT",
        _file,
        PATHS,
        aliases=("/read", "/attach", "/add"),
    ),
    Command("/paste", "", "attach the clipboard; a short text is typed", _paste),
    Command(
        "/detach", "[N|all]", "take back what is attached", _detach, words("all"), at_once=True
    ),
)
