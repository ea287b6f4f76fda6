"""The line editor: completion, drafts, and ways to end the reading."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.cells import cell_len

from rqchat.ui.editor.completion import SlashCompleter
from rqchat.ui.editor.line_editor import LEAVE_WITHIN_S, LineEditor
from rqchat.ui.text import tail


@dataclass
class Completed:
    """A command as far as completion goes."""

    suggest: Callable[[str], Iterable[tuple[str, str]]] | None
    arguments: str = ""
    summary: str = "what it does"


COMMANDS = {
    "/image": Completed(None, "PATH..."),
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
    assert completed("/im") == ["/image "]
    assert completed("/set top") == ["/set top-k", "/set top-p"]
    assert completed("/stats x") == []
    assert completed("/unknown x") == []
    assert completed("plain /s") == []


def test_completes_paths(tmp_path: Path) -> None:
    (tmp_path / "cat.png").touch()
    (tmp_path / "my cat.png").touch()
    (tmp_path / "folder").mkdir()
    assert completed(f"/image {tmp_path}/f") == [f"/image {tmp_path}/folder/"]
    assert completed(f"/image {tmp_path}/c") == [f"/image {tmp_path}/cat.png"]
    assert completed(f"/image {tmp_path}/my c") == [f"/image {tmp_path}/my cat.png"]


@pytest.fixture
def keys() -> Iterator[PipeInput]:
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        yield pipe


class Idle:
    """Nothing goes on behind the prompt."""

    error: BaseException | None = None
    answering = False
    wake: Callable[[], object] = str  # whoever waits for the answer to stop

    def status(self, columns: int) -> str:
        return "status"

    def heading(self, columns: int) -> list[tuple[str, str]]:
        return []

    def attached(self) -> str:
        return ""

    def must_wait(self, line: str) -> bool:
        return self.answering

    def is_answering(self) -> bool:
        return self.answering

    def stop(self) -> None:
        self.answering = False
        self.wake()

    def failure(self) -> BaseException | None:
        return self.error


@pytest.fixture
def work() -> Idle:
    return Idle()


@pytest.fixture
def editor(keys: PipeInput, work: Idle) -> LineEditor:
    return LineEditor(work, history_path=None, commands=COMMANDS)


def test_a_draft_can_be_edited(keys: PipeInput, editor: LineEditor) -> None:
    editor.give_back("Who")
    keys.send_text("?\r")
    assert editor.read() == "Who?"


def test_a_paste_of_several_lines_is_one_message(keys: PipeInput, editor: LineEditor) -> None:
    keys.send_text("\x1b[200~one\ntwo\n\x1b[201~\r")
    assert editor.read() == "one\ntwo"


def test_reading_ends_when_it_has_to(keys: PipeInput, editor: LineEditor, work: Idle) -> None:
    work.error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        editor.read()


def test_lines_sent_while_something_is_at_work_wait(
    keys: PipeInput, editor: LineEditor, work: Idle
) -> None:
    work.answering, work.wake = True, editor.wake
    keys.send_text("one\rtwo\rthr\x1b")  # Escape stops the answer
    read = [editor.read()]
    keys.send_text("ee\r")
    assert [*read, editor.read(), editor.read()] == ["one", "two", "three"]


def test_keys_with_alt_do_not_stop_the_answer(
    keys: PipeInput, editor: LineEditor, work: Idle
) -> None:
    work.answering, work.wake = True, editor.wake
    keys.send_text("one two\x1bbX\x1b\rY\r\x1b")  # Alt-B, Alt-Enter; Esc alone at the end
    assert editor.read() == "one X\nYtwo"


def test_ctrl_c_stops_the_answer_and_keeps_what_is_typed(
    keys: PipeInput, editor: LineEditor, work: Idle
) -> None:
    work.answering = True
    keys.send_text("typed\x03\r")
    assert editor.read() == "typed"


def test_a_big_paste_is_a_chip_that_is_sent_whole(keys: PipeInput, editor: LineEditor) -> None:
    pasted = "".join(f"line {number}\n" for number in range(123))
    keys.send_text(f"see \x1b[200~{pasted}\x1b[201~ there")
    keys.send_text("\x03ok\r")  # cleared
    assert editor.read() == "ok"
    keys.send_text("\x1b[A\x1b[A\r")  # brought back
    assert editor.read() == f"see {pasted} there"
    assert editor._session.history.get_strings()[:2] == ["see [Pasted 123 lines #1] there", "ok"]


def test_backspace_deletes_a_chip_whole(keys: PipeInput, editor: LineEditor) -> None:
    keys.send_text(f"a\x1b[200~{'x' * 2000}\x1b[201~\x7fb\x7fc\r")
    assert editor.read() == "ac"


def test_pastes_are_kept_whole_for_later_runs(keys: PipeInput, work: Idle, tmp_path: Path) -> None:
    for typed in (f"\x1b[200~{'x' * 2000}\x1b[201~!\r", "\x1b[A\r"):
        editor = LineEditor(work, history_path=tmp_path / "history", commands=COMMANDS)
        keys.send_text(typed)
        assert editor.read() == "x" * 2000 + "!"


def test_what_merely_looks_like_a_chip_is_sent_as_it_is(
    keys: PipeInput, editor: LineEditor
) -> None:
    keys.send_text("[Pasted 123 lines #7]\r")
    assert editor.read() == "[Pasted 123 lines #7]"


def test_triple_quotes_hold_several_lines(keys: PipeInput, editor: LineEditor) -> None:
    keys.send_text('"""one\r\rtwo"""\r')
    assert editor.read() == "one\n\ntwo"
    keys.send_text('say """ once\r')
    assert editor.read() == 'say """ once'


def test_vi_keys(keys: PipeInput, editor: LineEditor) -> None:
    editor.vi = True
    keys.send_text("one two\x1bbcwthree\x1b0x\r")
    assert editor.read() == "ne three"


def test_the_editor_of_the_user(
    keys: PipeInput, editor: LineEditor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "editor"
    begun = tmp_path / "begun"
    program.write_text(f'#!/bin/sh\nprintf " and again" >> "$1"; touch {begun}\n')
    program.chmod(0o755)
    monkeypatch.setenv("VISUAL", str(program))

    def send() -> None:
        while not begun.exists():
            time.sleep(0.01)
        keys.send_text("\r")

    threading.Thread(target=send, daemon=True).start()
    keys.send_text("again\x18\x05")
    assert editor.read() == "again and again"


@given(st.text() | st.text("ab 日"), st.integers(1, 60), st.integers(1, 9))
@example(" 0日", 1, 2)
def test_the_tail_fits_and_ends_as_the_text_does(text: str, columns: int, rows: int) -> None:
    wide = max(columns, 2)
    lines = tail(text, wide, rows).split("\n")
    assert len(lines) <= rows
    assert all(cell_len(line) <= wide for line in lines)
    assert "".join(text.split()).endswith("".join("".join(lines).split()))


def test_the_tail_keeps_words_whole() -> None:
    assert tail("one two three four", 9, 9) == "one two\nthree\nfour"
    assert tail("abcdefghijk lm nop", 9, 9) == "abcdefghi\njk lm nop"


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

    editor = LineEditor(Idle(), history_path=None, commands=COMMANDS, clock=clock)
    keys.send_text("\x03a\r")
    assert editor.read() == "a"
    now_s[0] += LEAVE_WITHIN_S + 0.1
    keys.send_text("\x03b\r\x03\x03")
    assert editor.read() == "b"
    with pytest.raises(EOFError):
        editor.read()
