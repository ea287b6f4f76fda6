"""/context, /stats and /compact: what the context holds, what it took, and making it shorter."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rqchat.cli.chat.chat import Chat
from rqchat.cli.chat.slash.registry import Command, words
from rqchat.cli.chat.turn_runner import Messages, TurnRequest
from rqchat.engine.conversation import ContextPart, UserTurn
from rqchat.engine.model_files.resolve import POCKET
from rqchat.errors import RqchatError, UsageError
from rqchat.ui.tables import context_table, stats_table
from rqchat.ui.text import format_count

if TYPE_CHECKING:
    from rqchat.engine.session_api import Session

__all__ = ["COMMANDS"]

_KEPT_TURNS = 1
_SUMMARY_TOKENS = 1024
_LEAST_SUMMARY_TOKENS = 256  # the request included
_REQUEST = (
    "Summarise our conversation so far, so that we can go on from your summary alone. Keep names,"
    " numbers, decisions, open questions, and what the documents and pictures say as far as we"
    " spoke of it. Write plain sentences and nothing else."
)


def _context(chat: Chat, argument: str) -> None:
    session = chat.session()
    waiting = [ContextPart("attached", each.name, each.tokens) for each in chat.attachments]
    chat.show(context_table((*session.context_parts(), *waiting), session.context_tokens))


def _stats(chat: Chat, argument: str) -> None:
    if chat.last_done is None:
        chat.say("no answer yet")
    else:
        chat.show(stats_table(chat.last_done))


def _compact(chat: Chat, argument: str) -> None:
    session = chat.session()
    older, recent = _halves(session.messages)
    if not older:
        raise UsageError("there is nothing to compact: the conversation has one turn or none")
    match argument:
        case "":
            _summarise(chat, session, older, recent)
        case "drop":
            before = _tokens(session)
            chat.turns.change("the dropping", recent)
            chat.say(_saved(f"dropped {_turns(older)}", before, _tokens(session)))
        case _:
            raise UsageError("/compact takes nothing, or 'drop'")


def _summarise(chat: Chat, session: Session, older: Messages, recent: Messages) -> None:
    if session.model_name == POCKET:
        raise RqchatError(
            f"the pocket model cannot summarise. /compact drop leaves out the oldest"
            f" {_turns(older)} without a summary; /undo brings them back"
        )
    before, kept_in = _tokens(session), chat.recorder.session_id
    request = UserTurn(_REQUEST)
    _check_summary_fits(session, older)

    def accept(messages: Messages) -> Messages:
        if messages[-1].interrupted or not messages[-1].text.strip():
            raise RqchatError("there is no whole summary; the conversation is as it was")
        session.restore((*messages[-2:], *recent))
        after = _tokens(session)
        if after >= before:
            raise RqchatError(
                f"the summary saves nothing ({format_count(before)} tokens before,"
                f" {format_count(after)} with it); the conversation is as it was"
            )
        whole = f", and /load {kept_in} has them whole" if kept_in else ""
        chat.say(_saved(f"this stands for {_turns(older)}", before, after) + whole)
        return session.messages

    chat.say(f"a summary of {_turns(older)}:")
    # Greedy, whatever answers are drawn with: a summary is to stay with what was said
    sampling = replace(chat.sampling, temperature=0.0, max_tokens=_SUMMARY_TOKENS)
    chat.turns.start(
        TurnRequest("the compacting", request, sampling, base=older, is_aside=True, accept=accept)
    )


def _check_summary_fits(session: Session, older: Messages) -> None:
    """Raises RqchatError where the context cannot hold a summary beside the older turns."""
    # A session counts its own conversation alone, so it gets the older half for a moment
    messages = session.messages
    session.restore(older)
    needed = _tokens(session) + _LEAST_SUMMARY_TOKENS
    session.restore(messages)
    if needed > session.context_tokens:
        raise RqchatError(
            f"there is no room for a summary: with the older turns it takes {format_count(needed)}"
            f" of {format_count(session.context_tokens)} tokens. /compact drop leaves out"
            f" {_turns(older)} without one; /undo brings them back"
        )


def _halves(messages: Messages) -> tuple[Messages, Messages]:
    """The messages to summarise, and those that stay word for word."""
    return messages[: -2 * _KEPT_TURNS], messages[-2 * _KEPT_TURNS :]


def _tokens(session: Session) -> int:
    return sum(part.tokens for part in session.context_parts())


def _turns(messages: Messages) -> str:
    count = len(messages) // 2
    inputs = sum(len(m.documents) + len(m.pictures) for m in messages)
    text = f"{count} turn{'s' if count > 1 else ''}"
    what = "files and pictures" if inputs > 1 else "file or picture"
    return f"{text} with {inputs} {what}" if inputs else text


def _saved(what: str, before: int, after: int) -> str:
    return (
        f"{what}: {format_count(before)} tokens are {format_count(after)} now;"
        " /undo brings them back"
    )


COMMANDS = (
    Command("/context", "", "what the context holds, in tokens", _context, aliases=("/tokens",)),
    Command("/stats", "", "tokens, speed and memory of the last answer", _stats),
    Command(
        "/compact",
        "[drop]",
        "put a summary for the older turns, or drop them",
        _compact,
        words("drop"),
    ),
)
