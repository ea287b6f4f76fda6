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
from rqchat.engine.inputs.pictures import MAX_PICTURE_BYTES, Picture, decode_picture
from rqchat.engine.inputs.references import ReferenceReader, read_stream
from rqchat.errors import InputError, UsageError
from rqchat.ui.console import Screen, is_terminal
from rqchat.ui.input_events import show_input_event

__all__ = ["STDIN", "Inputs", "gather_turns", "read_stdin"]

STDIN = "-"
_STDIN_NAME = "standard input"
_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"RIFF")  # WebP in RIFF
_NO_QUESTION = 'there is no question; write it last: rqchat ask "Who is the narrator?"'


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the command line names.

    Attributes:
        prompt: the question; None lets standard input be it, unless there are `questions`.
        questions: several, of which each is asked about the same pictures and documents.
        questions_file: holds more of them, one a line.
        images, files: paths, folders, patterns, URLs, or `-`.
        clipboard: what the clipboard holds is wanted too.
        encoding: of the documents; None finds it out.
        offline: URLs are refused.
    """

    prompt: str | None = None
    questions: Sequence[str] = ()
    questions_file: str | None = None
    images: Sequence[str] = ()
    files: Sequence[str] = ()
    clipboard: bool = False
    encoding: str | None = None
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
    reader = ReferenceReader(show, offline=inputs.offline, encoding=inputs.encoding)
    questions = _questions(inputs, reader, screen)
    is_piped = not named and sys.stdin is not None and not is_terminal("stdin")
    if not questions and not is_piped:
        raise UsageError(_NO_QUESTION)
    documents, pictures = _attachments(inputs, reader, screen)
    if is_piped:
        data = read_stdin(screen)
        if questions and data.startswith(_PICTURES):
            pictures.insert(0, decode_picture(data, _STDIN_NAME))
        elif data.strip():
            piped = reader.document(data, _STDIN_NAME)
            if questions:
                documents.insert(0, piped)
            questions = questions or (_checked(piped.text),)
        elif not questions:
            raise UsageError(_NO_QUESTION)
        elif _may_carry_data():
            screen.note("standard input is empty: no document was read", style="warning")
    return tuple(
        UserTurn(question, (*pictures, *_mentioned(question, pictures, reader)), tuple(documents))
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
        several += _documents(inputs.questions_file, reader, screen)[0].text.splitlines()
        several = [question for question in several if question.strip()]
    if several and inputs.prompt is not None:
        raise UsageError("give one PROMPT, or several questions with --question; not both")
    if inputs.prompt == STDIN:
        several = [reader.document(read_stdin(screen), _STDIN_NAME).text]
    elif inputs.prompt is not None:
        several = [inputs.prompt]
    return tuple(_checked(question) for question in several)


def _checked(question: str) -> str:
    if not question.strip():
        raise UsageError(_NO_QUESTION)
    if any("\ud800" <= char <= "\udfff" for char in question):
        raise UsageError("the question is not valid UTF-8; check the terminal's encoding")
    return question.strip()


def _attachments(
    inputs: Inputs, reader: ReferenceReader, screen: Screen
) -> tuple[list[Document], list[Picture]]:
    documents = [each for name in inputs.files for each in _documents(name, reader, screen)]
    pictures = [_picture(name, reader, screen) for name in inputs.images]
    if inputs.clipboard:
        item = read_clipboard()
        if isinstance(item, Picture):
            pictures.append(item)
        else:
            documents.append(item)
    return documents, pictures


def _documents(name: str, reader: ReferenceReader, screen: Screen) -> tuple[Document, ...]:
    if name == STDIN:
        return (reader.document(read_stdin(screen), _STDIN_NAME),)
    return reader.documents(name)


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
