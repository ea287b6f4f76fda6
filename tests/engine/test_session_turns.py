"""Turns after turns: what is reused, and that reuse changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from rqchat.engine.inputs.documents import Document
from rqchat.engine.session import ChatSession, UserTurn
from rqchat.engine.settings import SamplingSettings, Settings
from tests.engine.sessions import (
    GREEDY,
    answered,
    assert_same,
    copy,
    done_of,
    logits_of,
    over,
    picture_of,
    script,
)


class TestConversation:
    """Turns after turns: what is reused, and that reuse changes nothing."""

    @pytest.mark.parametrize("answer", ["Yes.", "A long answer that leaves the window. " * 3])
    def test_the_next_turn_reads_only_what_is_new(
        self, loaded: ChatSession, monkeypatch: pytest.MonkeyPatch, answer: str
    ) -> None:
        session = over(loaded)
        turn = UserTurn("First?", documents=(Document("d", "A document. " * 20),))
        with monkeypatch.context() as scripted:
            script(scripted, answer)
            first = done_of(session.ask(turn, SamplingSettings()))

        fresh = copy(loaded, session.messages)
        reused, second = answered(session, UserTurn("Second?"))

        assert_same(logits_of(fresh, UserTurn("Second?")), reused)
        # all of the first prompt but the prefilled empty thought
        empty_thought = 2 + len("thought\n")
        assert second.tokens.cached == first.tokens.input - empty_thought

    def test_a_packed_cache_goes_back_to_the_same_place(
        self, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loaded = ChatSession.open(Settings(model=str(tiny_folder), device="cpu", kv_bits=4))
        turn = UserTurn("First?", documents=(Document("d", "A document. " * 90),))
        answers = []
        for _ in range(2):
            session = over(loaded, chunk_tokens=128)
            with monkeypatch.context() as scripted:
                script(scripted, "Yes.")
                done_of(session.ask(turn))
            before = session.messages
            answers.append(logits_of(session, UserTurn("Second?")))
            session._messages = before  # ask the same again: back to the same mark
            answers.append(logits_of(session, UserTurn("Second?")))

        for answer in answers[1:]:
            assert_same(answer, answers[0])
        assert session._prefix.cache.packed_tokens > 0

    def test_another_picture_of_the_same_size_is_read_again(self, session: ChatSession) -> None:
        red = UserTurn("What?", pictures=(picture_of("red"),))
        first = logits_of(session, red)
        session._messages = ()
        second = done_of(session.ask(UserTurn("What?", pictures=(picture_of("blue"),)), GREEDY))
        session._messages = ()

        assert second.tokens.cached < 20  # not a token of the picture
        assert_same(logits_of(session, red), first)

    def test_a_new_system_message_holds_from_the_next_turn(self, loaded: ChatSession) -> None:
        changed = over(loaded)
        done_of(changed.ask(UserTurn("Hi"), GREEDY))
        fresh = copy(loaded, changed.messages)
        changed.system = fresh.system = "Be short."

        assert_same(logits_of(changed, UserTurn("And?")), logits_of(fresh, UserTurn("And?")))

    def test_a_question_that_was_given_up_costs_no_second_reading(
        self, loaded: ChatSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        session = over(loaded)
        turn = UserTurn("First?", documents=(Document("d", "A document. " * 20),))
        read = done_of(session.ask(turn, GREEDY)).tokens.input
        before = session.messages
        done_of(session.ask(UserTurn("Second?"), GREEDY))
        fresh = copy(loaded, before)
        session._messages = before

        logits, third = answered(session, UserTurn("Something else?"))

        assert third.tokens.cached > read - 20
        assert_same(logits, logits_of(fresh, UserTurn("Something else?")))

    def test_clear_forgets_all_but_the_system_message(self, session: ChatSession) -> None:
        session.system = "Be short."
        empty = session.count_tokens(UserTurn("Q"))
        done_of(session.ask(UserTurn("Hi"), GREEDY))
        session.clear()

        assert (session.messages, session.used_tokens) == ((), 0)
        assert session.count_tokens(UserTurn("Q")) == empty
        assert session.system == "Be short."


def test_a_restored_conversation_goes_on_as_the_first_did(loaded: ChatSession) -> None:
    first = over(loaded)
    done_of(first.ask(UserTurn("Hello"), GREEDY))
    second = over(loaded)
    second.restore(first.messages)
    assert second.messages == first.messages
    turn = UserTurn("And now?")
    assert second.count_tokens(turn) == first.count_tokens(turn)
    there, _ = answered(second, turn)
    here, _ = answered(first, turn)
    # The one reads in one go what the other read in two
    assert_same(there, here)


def test_restored_messages_that_the_cache_holds_are_not_read_again(loaded: ChatSession) -> None:
    session = over(loaded)
    done_of(session.ask(UserTurn("Hello"), GREEDY))
    before = session.messages
    done_of(session.ask(UserTurn("Undo me"), GREEDY))
    session.restore(before)
    assert done_of(session.ask(UserTurn("Other"), GREEDY)).tokens.cached > 0
