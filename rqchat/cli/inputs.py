"""What the user hands over besides the question: files, pictures, standard input."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from rqchat.engine.conversation import UserTurn
from rqchat.engine.inputs.clipboard import read_clipboard
from rqchat.engine.inputs.documents import MAX_DOCUMENT_BYTES, Document
from rqchat.engine.inputs.mentioned_pictures import mentioned_pictures
from rqchat.engine.inputs.pdf import PageRanges, check_pages_used
from rqchat.engine.inputs.pictures import MAX_PICTURE_BYTES, Picture, decode_picture
from rqchat.engine.inputs.references import ReferenceReader, read_stream
from rqchat.errors import InputError, UsageError
from rqchat.ui.console import Screen, is_terminal
from rqchat.ui.input_events import show_input_event

__all__ = ["STDIN", "Inputs", "gather_turns", "read_stdin"]

STDIN = "-"
_STDIN_NAME = "standard input"
_NO_QUESTION = 'there is no question; write it last: rqchat ask "Who is the narrator?"'


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the command line names.

    Attributes:
        prompt: the question; None lets standard input be it, unless there are `questions`.
        questions: several, of which each is asked about the same pictures and documents.
        questions_file: holds more of them, one a line.
        images: paths of pictures, URLs, or `-`.
        files: paths of texts and pictures, folders, patterns, URLs, or `-`.
        clipboard: what the clipboard holds is wanted too.
        encoding: of the documents; None finds it out.
        pages: of PDF files, as written; None is all of them.
        offline: URLs are refused.
    """

    prompt: str | None = None
    questions: Sequence[str] = ()
    questions_file: str | None = None
    images: Sequence[str] = ()
    files: Sequence[str] = ()
    clipboard: bool = False
    encoding: str | None = None
    pages: str | None = None
    offline: bool = False

    @property
    def has_several(self) -> bool:
        """Whether questions come as a list, be it of one."""
        return bool(self.questions) or self.questions_file is not None


def gather_turns(inputs: Inputs, screen: Screen) -> tuple[UserTurn, ...]:
    """The user turn of `rqchat ask`, or one for each of several questions.

    A piped standard input is the first picture or document, or the question where none is given,
    unless `-` among the names says what it is.

    Raises:
        UsageError: there is no question, or `-` stands twice.
        InputError: a file, a picture or standard input cannot be used.
    """
    named = [*inputs.images, *inputs.files, inputs.questions_file, inputs.prompt].count(STDIN)
    if named > 1:
        raise UsageError("'-' stands for standard input, which can be read only once")
    show = partial(show_input_event, screen)
    pages = PageRanges.parse(inputs.pages) if inputs.pages is not None else None
    reader = ReferenceReader(show, inputs.offline, inputs.encoding, pages)
    questions = _questions(inputs, reader, screen)
    is_piped = not named and sys.stdin is not None and not is_terminal("stdin")
    if not questions and not is_piped:
        raise UsageError(_NO_QUESTION)
    attached = _attachments(inputs, reader, screen)
    if is_piped:
        data = read_stdin(screen)
        if data.strip():
            piped = reader.decode(data, _STDIN_NAME)
            if questions:
                attached[:0] = piped
            questions = questions or (_checked(_text(piped)),)
        elif not questions:
            raise UsageError(_NO_QUESTION)
        elif _may_carry_data():
            screen.note("standard input is empty: no document was read", style="warning")
    if pages is not None:
        check_pages_used(pages, attached)
    pictures = tuple(each for each in attached if isinstance(each, Picture))
    documents = tuple(each for each in attached if isinstance(each, Document))
    return tuple(
        UserTurn(question, (*pictures, *_mentioned(question, pictures, reader)), documents)
        for question in questions
    )


def _mentioned(
    question: str, given: Sequence[Picture], reader: ReferenceReader
) -> tuple[Picture, ...]:
    """The pictures that a question names by their paths, without those that are given anyway."""
    named = [reader.picture(str(path)) for path in mentioned_pictures(question)]
    return tuple(each for each in named if all(each.data != other.data for other in given))


def _questions(inputs: Inputs, reader: ReferenceReader, screen: Screen) -> tuple[str, ...]:
    """All questions of the command line; none where standard input may be it."""
    several = list(inputs.questions)
    if inputs.questions_file is not None:
        several += _text(_read(inputs.questions_file, reader, screen)).splitlines()
        several = [question for question in several if question.strip()]
    if several and inputs.prompt is not None:
        raise UsageError("give one PROMPT, or several questions with --question; not both")
    if inputs.prompt == STDIN:
        several = [_text(_read(STDIN, reader, screen))]
    elif inputs.prompt is not None:
        several = [inputs.prompt]
    return tuple(_checked(question) for question in several)


def _text(items: Sequence[Document | Picture]) -> str:
    """What is to be a question."""
    item = items[-1]
    if isinstance(item, Picture):
        raise UsageError(f"{item.name} is a picture, not a question about it; {_NO_QUESTION}")
    return item.text


def _checked(question: str) -> str:
    if not question.strip():
        raise UsageError(_NO_QUESTION)
    if any("\ud800" <= char <= "\udfff" for char in question):
        raise UsageError("the question is not valid UTF-8; check the terminal's encoding")
    return question.strip()


def _attachments(
    inputs: Inputs, reader: ReferenceReader, screen: Screen
) -> list[Document | Picture]:
    attached: list[Document | Picture] = []
    attached += (_picture(name, reader, screen) for name in inputs.images)
    attached += (each for name in inputs.files for each in _read(name, reader, screen))
    if inputs.clipboard:
        attached.append(read_clipboard())
    return attached


def _read(name: str, reader: ReferenceReader, screen: Screen) -> tuple[Document | Picture, ...]:
    if name == STDIN:
        return reader.decode(read_stdin(screen), _STDIN_NAME)
    return reader.read(name)


def _picture(name: str, reader: ReferenceReader, screen: Screen) -> Picture:
    if name == STDIN:
        return decode_picture(read_stdin(screen, MAX_PICTURE_BYTES), _STDIN_NAME)
    return reader.picture(name)


def read_stdin(screen: Screen, max_bytes: int = MAX_DOCUMENT_BYTES) -> bytes:
    """All of standard input; says that it waits when the end is not there soon.

    Raises:
        InputError: standard input is closed, or has more than `max_bytes`.
    """
    if sys.stdin is None:
        raise InputError("standard input is closed; give a file name instead of '-'")
    name = f"{_STDIN_NAME} (Ctrl-D ends it)" if is_terminal("stdin") else _STDIN_NAME
    return read_stream(sys.stdin.buffer, name, max_bytes, partial(show_input_event, screen))


def _may_carry_data() -> bool:
    """Whether standard input is a pipe, a socket or a file, and not /dev/null or the like."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):
        return True
    return not stat.S_ISCHR(mode)
