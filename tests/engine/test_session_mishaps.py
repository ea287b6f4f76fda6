"""Whatever goes wrong in a session, nothing is lost and nothing is cut."""

from __future__ import annotations

from pathlib import Path

import pytest

from rotorquant import RotorQuantError
from rqchat.engine.events import (
    Done,
    TextDelta,
)
from rqchat.engine.inputs.documents import Document
from rqchat.engine.session import ChatSession, Message, UserTurn
from rqchat.errors import ContextLengthError, RqchatError
from tests.engine.sessions import (
    GREEDY,
    assert_same,
    copy,
    done_of,
    fail_at,
    logits_of,
    open_session,
    over,
    script,
)
from tests.helpers import byte_tokenizer


class TestMishaps:
    """Nothing is lost, nothing is cut."""

    def test_a_prompt_longer_than_the_context_changes_nothing(
        self, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        session = open_session(tiny_folder, context_tokens=128)
        script(monkeypatch, "Yes.")
        done_of(session.ask(UserTurn("Hi")))
        before, used = session.messages, session.used_tokens
        long = UserTurn("Q", documents=(Document("d", "x" * 300),))
        counted = session.count_tokens(long)

        with pytest.raises(ContextLengthError) as checked:
            session.check(long)
        with pytest.raises(ContextLengthError) as caught:
            session.ask(long)

        assert str(checked.value) == str(caught.value)
        assert (caught.value.input_tokens, caught.value.context_tokens) == (counted, 128)
        assert f"{counted}" in str(caught.value)
        assert f"--context {counted + 1024}" in str(caught.value)
        assert "/compact" in str(caught.value)
        assert (session.messages, session.used_tokens) == (before, used)

    def test_a_text_that_no_context_holds_is_not_even_counted(
        self, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        session = open_session(tiny_folder)
        monkeypatch.setattr(session, "_write", pytest.fail)
        longest = max(map(len, byte_tokenizer().get_vocab()))
        with pytest.raises(ContextLengthError, match="at least 2,049 tokens, but") as caught:
            session.check(UserTurn("Q", documents=(Document("d", "x" * (2048 * longest + 1)),)))
        assert "--context" not in str(caught.value)

    def test_the_last_token_of_the_context_can_be_used(
        self, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        session = open_session(tiny_folder, context_tokens=100)
        script(monkeypatch, "y" * 200)
        room = 100 - session.count_tokens(UserTurn(""))

        turn = UserTurn("q" * (room - 1))
        assert session.check(turn) == session.count_tokens(turn) == 99
        assert session.used_tokens == 0
        done = done_of(session.ask(turn))
        assert (done.stop_reason, done.tokens.output) == ("length", 1)

        session.clear()
        with pytest.raises(ContextLengthError):
            session.ask(UserTurn("q" * room))

    def test_interrupted_while_reading_nothing_is_kept_but_the_cache(
        self, session: ChatSession
    ) -> None:
        turn = UserTurn("Q", documents=(Document("d", "word " * 50),))
        events = session.ask(turn, GREEDY)
        while next(events).done_tokens < 48:  # type: ignore[union-attr]
            pass
        session.interrupt()

        rest = list(events)

        assert [type(event) for event in rest] == [Done]
        assert done_of(iter(rest)).stop_reason == "interrupted"
        assert session.messages == ()
        assert done_of(session.ask(turn, GREEDY)).tokens.cached == 48

    def test_interrupted_in_the_answer_the_text_is_kept(
        self, session: ChatSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        script(monkeypatch, "abcdefgh")
        said = ""
        for event in session.ask(UserTurn("Q")):
            if isinstance(event, TextDelta):
                said += event.text
            if said == "abc":
                session.interrupt()

        assert isinstance(event, Done)
        assert event.stop_reason == "interrupted"
        assert session.messages[-1] == Message("assistant", "abc", interrupted=True)
        assert done_of(session.ask(UserTurn("And?"))).stop_reason == "eos"

    def test_a_listener_that_leaves_keeps_the_text(
        self, session: ChatSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        script(monkeypatch, "abcdefgh")
        events = session.ask(UserTurn("Q"))
        for event in events:
            if isinstance(event, TextDelta) and event.text == "c":
                break
        events.close()

        assert session.messages[-1] == Message("assistant", "abc", interrupted=True)

    def test_a_keyboard_interrupt_within_a_step_keeps_the_text(
        self, loaded: ChatSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        session = over(loaded)
        with monkeypatch.context() as broken:
            script(broken, "abcdefgh")
            events = session.ask(UserTurn("Q"))
            for event in events:
                if isinstance(event, TextDelta) and event.text == "c":
                    break
            fail_at(broken, session, 0, KeyboardInterrupt())
            with pytest.raises(KeyboardInterrupt):
                next(events)

        assert session.messages[-1] == Message("assistant", "abc", interrupted=True)
        fresh = copy(loaded, session.messages)
        assert_same(logits_of(session, UserTurn("And?")), logits_of(fresh, UserTurn("And?")))

    @pytest.mark.parametrize("failing_call", [0, 3, 8])
    def test_a_failure_leaves_the_conversation_as_it_was(
        self, loaded: ChatSession, monkeypatch: pytest.MonkeyPatch, failing_call: int
    ) -> None:
        session = over(loaded)
        done_of(session.ask(UserTurn("Hi"), GREEDY))
        before = session.messages
        wanted = logits_of(copy(loaded, before), UserTurn("And then what?"))

        with monkeypatch.context() as broken:
            fail_at(broken, session, failing_call, RotorQuantError("no"))
            with pytest.raises(RqchatError, match="the KV cache failed: no"):
                list(session.ask(UserTurn("And then what?"), GREEDY))

        assert session.messages == before
        assert_same(logits_of(session, UserTurn("And then what?")), wanted)
