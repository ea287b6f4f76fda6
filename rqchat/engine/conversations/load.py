"""A saved conversation, loaded so that a live session can go on with it."""

from __future__ import annotations

from dataclasses import dataclass

from rqchat.engine.conversation import Message, UserTurn
from rqchat.engine.conversations.attachments import load_turn
from rqchat.engine.conversations.database import Database
from rqchat.engine.conversations.records import SessionRecord
from rqchat.engine.conversations.rows import Kept
from rqchat.engine.conversations.sessions import read_turns

__all__ = ["SavedConversation", "load_conversation"]


@dataclass(frozen=True, slots=True)
class SavedConversation:
    """A session with its turns, and what came with them, in memory.

    Attributes:
        turns: id in the store and content of each turn.
    """

    record: SessionRecord
    turns: tuple[tuple[int, Kept], ...]

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation: questions that have an answer, and their answers without thoughts."""
        answered = [kept for _, kept in self.turns if kept.is_answered]
        return tuple(message for kept in answered for message in kept.messages)

    @property
    def pending(self) -> UserTurn | None:
        """The last question where the process ended before its answer began."""
        last = self.turns[-1][1] if self.turns else None
        return last.turn if last and last.state == "unfinished" and not last.answer else None


def load_conversation(database: Database, record: SessionRecord) -> SavedConversation:
    """All of a session.

    Raises:
        StoreError: the store cannot be read or is damaged.
    """
    turns = read_turns(database, record.id)
    return SavedConversation(
        record, tuple((turn.id, Kept.loaded(load_turn(database, turn), turn)) for turn in turns)
    )
