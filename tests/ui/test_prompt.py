"""The line editor: completion, drafts, and ways to end the reading."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from rqchat.ui.prompt import LEAVE_WITHIN_S, LineEditor, SlashCompleter


@dataclass
class Completed:
    """A command as far as completion goes."""

    suggest: Callable[[str], Iterable[tuple[str, str]]] | None
    summary: str = "what it does"


COMMANDS = {
    "/image": Completed(None),
    "/set": Completed(lambda typed: [(word, "") for word in ("seed", "top-k", "top-p")]),
    "/stats": Completed(lambda typed: []),
}


def completed(text: str) -> list[str]:
    """What the line would become, one entry per completion."""
    completer = SlashCompleter(COMMANDS)
    found = completer.get_completions(Document(text), CompleteEvent(completion_requested=True))
    return [text[: len(text) + item.start_position] + item.text for item in found]


def test_completes_commands_and_their_words() -> None:
    assert completed("/s") == ["/set", "/stats"]
    assert completed("/set top") == ["/set top-k", "/set top-p"]
    assert completed("/stats x") == []
    assert completed("/unknown x") == []
    assert completed("plain /s") == []


def test_completes_paths(tmp_path: Path) -> None:
    (tmp_path / "cat.png").touch()
    (tmp_path / "my cat.png").touch()
    assert completed(f"/image {tmp_path}/c") == [f"/image {tmp_path}/cat.png"]
    assert completed(f"/image {tmp_path}/my c") == [f"/image {tmp_path}/my cat.png"]


@pytest.fixture
def keys() -> Iterator[PipeInput]:
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        yield pipe


@pytest.fixture
def editor(keys: PipeInput) -> LineEditor:
    return LineEditor(history_path=None, commands=COMMANDS, status=lambda: "status")


def test_a_draft_can_be_edited(keys: PipeInput, editor: LineEditor) -> None:
    keys.send_text("?\r")
    assert editor.read(draft="Who") == "Who?"


def test_a_paste_of_several_lines_is_one_message(keys: PipeInput, editor: LineEditor) -> None:
    keys.send_text("\x1b[200~one\ntwo\n\x1b[201~\r")
    assert editor.read() == "one\ntwo"


def test_reading_ends_when_it_has_to(keys: PipeInput, editor: LineEditor) -> None:
    with pytest.raises(ZeroDivisionError):
        editor.read(give_up=ZeroDivisionError)


def test_ctrl_d_on_a_typed_line_does_not_leave(keys: PipeInput, editor: LineEditor) -> None:
    keys.send_text("ab\x02\x04\r")
    assert editor.read() == "a"
    keys.send_text("\x04")
    with pytest.raises(EOFError):
        editor.read()


def test_only_a_quick_second_ctrl_c_leaves(keys: PipeInput) -> None:
    now_s = [0.0]

    def clock() -> float:
        return now_s[0]

    editor = LineEditor(history_path=None, commands=COMMANDS, status=str, clock=clock)
    keys.send_text("\x03a\r")
    assert editor.read() == "a"
    now_s[0] += LEAVE_WITHIN_S + 0.1
    keys.send_text("\x03b\r\x03\x03")
    assert editor.read() == "b"
    with pytest.raises(EOFError):
        editor.read()
