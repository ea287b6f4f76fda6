"""Answers the turns of `rqchat ask` one by one; cuts documents where that was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import typer

from rqchat.cli import open_session
from rqchat.cli.open_session import Stop
from rqchat.engine.events import Done
from rqchat.engine.generation.truncate import Place, cut_documents
from rqchat.errors import ContextLengthError, RqchatError

if TYPE_CHECKING:
    from rqchat.cli.commands.ask_output import Report
    from rqchat.engine.conversation import UserTurn
    from rqchat.engine.conversations.recorder import Recorder
    from rqchat.engine.session_api import Session
    from rqchat.engine.settings import SamplingSettings
    from rqchat.ui.console import Screen

__all__ = ["answer_all", "fit_turns"]

_PENALTY = 1.15
_AGAIN = (
    "the answer only repeated itself: once more with another seed and a repetition penalty of"
    f" {_PENALTY}"
)
_ANSWER_TOKENS = 1024  # what --truncate leaves for an answer without a limit of its own


def fit_turns(
    session: Session,
    turns: tuple[UserTurn, ...],
    place: Place | None,
    answer_tokens: int | None,
    screen: Screen,
) -> tuple[tuple[UserTurn, ...], int | None]:
    """The turns, their documents cut where that was asked for, and the tokens that this drops.

    All turns have the same documents, so the longest of them decides. The tokens are None where
    cutting was not asked for.

    Raises:
        ContextLengthError: the turn is too long even without its documents.
    """
    if place is None:
        return turns, None
    context = session.context_tokens
    limit = context - min(answer_tokens or _ANSWER_TOKENS, context // 4)
    # They share their documents, which are cut alike, so that they are read once
    longest = max(turns, key=session.count_tokens)
    cut = cut_documents(longest, limit, place, session.count_tokens)
    if cut.dropped_tokens:
        screen.warning(
            f"left out {cut.dropped_tokens:,} of {cut.whole_tokens:,} tokens at the {place} of"
            f" the documents, as --truncate {place} asks"
        )
    documents = cut.turn.documents
    return tuple(replace(turn, documents=documents) for turn in turns), cut.dropped_tokens


def answer_all(
    session: Session,
    recorder: Recorder,
    turns: tuple[UserTurn, ...],
    sampling: SamplingSettings,
    schema: str | None,
    report: Report,
    dropped_tokens: int | None,
) -> None:
    """Answers every turn on its own, a conversation each; what they begin with is read once.

    Raises:
        ContextLengthError: one is too long; then none is answered.
        RqchatError: an answer that has to match `schema` was cut short.
        Exit: the user interrupted.
    """
    # The first one is checked when it is asked, which is before anything is answered.
    for turn in turns[1:]:
        with _truncate_hint(turn):
            session.check(turn)
    before = session.messages
    # Closed also after JSON that was cut short, so that a document that was read is kept
    with closing(session):
        for turn in turns:
            session.restore(before)
            done, stop = _answer(session, recorder, turn, sampling, schema, report)
            if schema is not None and done.stop_reason == "repetition":
                report.begin_again(_AGAIN)
                session.restore(before)
                once_more = _otherwise(sampling, done.seed)
                done, stop = _answer(session, recorder, turn, once_more, schema, report)
            if schema is not None:
                _check_whole(done, stop, report)
            report.finish(session, turn.text, done, recorder.session_id, dropped_tokens)
            if done.stop_reason == "interrupted":
                break
    if done.stop_reason == "interrupted":
        raise typer.Exit(stop.exit_code)


def _otherwise(sampling: SamplingSettings, seed: int) -> SamplingSettings:
    """Another seed, and a penalty on the words of the loop that `seed` led to."""
    penalty = max(sampling.repetition_penalty, _PENALTY)
    return replace(sampling, seed=(seed + 1) % 2**31, repetition_penalty=penalty)


def _check_whole(done: Done, stop: Stop, report: Report) -> None:
    """JSON that was cut short is no JSON."""
    if done.stop_reason == "repetition":
        report.show_partial()
        raise RqchatError(
            "the answer fell into a loop twice, the second time with another seed and a repetition"
            " penalty, so it is no whole JSON; what came stands above. Bound the strings and arrays"
            " of the schema with maxLength and maxItems, or take another --temperature"
        )
    if done.stop_reason == "length":
        raise RqchatError(
            f"the JSON was not whole after {done.tokens.output:,} tokens, so none of it is shown;"
            " take a higher --max-tokens or a longer --context, or bound the strings and arrays of"
            " the schema with maxLength and maxItems"
        )
    if done.stop_reason == "interrupted":
        raise typer.Exit(stop.exit_code)


def _answer(
    session: Session,
    recorder: Recorder,
    turn: UserTurn,
    sampling: SamplingSettings,
    schema: str | None,
    report: Report,
) -> tuple[Done, Stop]:
    done: Done | None = None
    with (
        _truncate_hint(turn),
        open_session.interruptible(session) as stop,
        recorder.turn(session, turn, sampling, schema=schema) as recorded,
        closing(session.ask(turn, sampling, schema=schema)) as events,
    ):
        for event in events:
            recorded.note(event)
            report.show(event)
            if isinstance(event, Done):
                done = event
    assert done is not None, "an answer ends with Done"
    return done, stop


@contextmanager
def _truncate_hint(turn: UserTurn) -> Iterator[None]:
    """A context in which the error of a prompt that is too long mentions --truncate."""
    try:
        yield
    except ContextLengthError as error:
        if not turn.documents:
            raise
        raise ContextLengthError(
            f"{error}, or let documents be cut with --truncate middle",
            input_tokens=error.input_tokens,
            context_tokens=error.context_tokens,
        ) from None
