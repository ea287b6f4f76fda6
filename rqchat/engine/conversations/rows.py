"""The rows of one conversation, brought to what it is now in one transaction."""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Self

from rqchat.engine.conversation import Message, UserTurn
from rqchat.engine.conversations.attachments import attached_names, keep_attachments
from rqchat.engine.conversations.database import Database, plain
from rqchat.engine.conversations.receipt import Receipt
from rqchat.engine.conversations.records import Origin, TurnRecord, TurnState, short_title

__all__ = ["Kept", "SessionRows"]

_ID_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"  # none that looks like another
_ID_LENGTH = 8


@dataclass(frozen=True, slots=True)
class Kept:
    """A turn as it should stand in the store."""

    turn: UserTurn
    asked_s: float
    receipt: Receipt
    thought: str = ""
    answer: str = ""
    state: TurnState = "unfinished"

    @classmethod
    def of(cls, asked: Message, answer: Message, receipt: Receipt) -> Self:
        """Two messages of a conversation."""
        turn = UserTurn(asked.text, asked.pictures, asked.documents)
        state: TurnState = "interrupted" if answer.interrupted else "complete"
        return cls(turn, time.time(), receipt, "", answer.text, state)

    @classmethod
    def loaded(cls, turn: UserTurn, record: TurnRecord) -> Self:
        """A saved turn."""
        return cls(
            turn, record.asked_s, record.receipt, record.thought, record.answer, record.state
        )

    @property
    def is_answered(self) -> bool:
        """Whether it is part of the conversation: an answer that was stopped before it began is
        not."""
        return bool(self.answer) or self.state == "complete"

    @property
    def messages(self) -> tuple[Message, Message]:
        """Question and answer as a conversation has them."""
        asked = Message("user", self.turn.text, self.turn.pictures, self.turn.documents)
        return asked, Message("assistant", self.answer, interrupted=self.state != "complete")

    def is_question(self, asked: Message) -> bool:
        """Whether `asked` is the question of this turn."""
        return self.turn == UserTurn(asked.text, asked.pictures, asked.documents)

    def is_pair(self, asked: Message, answer: Message) -> bool:
        """Whether the two messages are this turn."""
        return self.answer == answer.text and self.is_question(asked)


@dataclass(frozen=True, slots=True)
class SessionRows:
    """What a conversation has in the store.

    Attributes:
        session_id: None until its first turn is written.
        written: id and content of each row, in order.
        forked_from: the session that this one copies.
        named_by: the turn whose question is its title; None takes the first one.
    """

    origin: Origin
    session_id: str | None = None
    written: tuple[tuple[int, Kept], ...] = ()
    forked_from: str | None = None
    named_by: UserTurn | None = None

    def differ(self, kept: Sequence[Kept]) -> bool:
        """Whether there is anything to write."""
        return [each for _, each in self.written] != list(kept)

    def brought_to(self, kept: Sequence[Kept], database: Database) -> Self:
        """Writes what changed. A session that another process went on with, or removed, is left as
        it is, and this conversation goes on in a copy.

        Raises:
            StoreError: the store cannot be written; then nothing was.
        """
        now_s = time.time()
        with database.write() as connection:
            target = self if self._is_unchanged(connection) else self._copied(connection, kept)
            assert target.session_id is not None
            written = list(target.written)
            # Only answers are changed in place: from the first other question on, rows are new.
            same = _common_length([old.turn for _, old in written], [new.turn for new in kept])
            _delete(connection, [row for row, _ in written[same:]])
            del written[same:]
            for index, each in enumerate(kept):
                if index == len(written):
                    written.append((_insert(connection, target.session_id, index + 1, each), each))
                elif written[index][1] != each:
                    _update(connection, written[index][0], each)
                    written[index] = (written[index][0], each)
            receipt = kept[-1].receipt
            connection.execute(
                "UPDATE sessions SET updated_s = ?, model = ?, system = ? WHERE id = ?",
                (
                    *(now_s, plain(receipt.model), receipt.system and plain(receipt.system)),
                    target.session_id,
                ),
            )
        return type(self)(self.origin, target.session_id, tuple(written), target.forked_from)

    def _is_unchanged(self, connection: sqlite3.Connection) -> bool:
        """Whether the session still has the rows that were written here."""
        if self.session_id is None:
            return False
        rows = connection.execute(
            "SELECT id FROM turns WHERE session_id = ? ORDER BY number", (self.session_id,)
        ).fetchall()
        return [row[0] for row in rows] == [row for row, _ in self.written]

    def _copied(self, connection: sqlite3.Connection, kept: Sequence[Kept]) -> Self:
        session_id = "".join(secrets.choice(_ID_LETTERS) for _ in range(_ID_LENGTH))
        source = self.session_id or self.forked_from
        now_s = time.time()
        first = kept[0]
        connection.execute(
            "INSERT INTO sessions (id, title, origin, model, forked_from, created_s, updated_s)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                session_id,
                _title(self.named_by or first.turn),
                self.origin,
                plain(first.receipt.model),
                source,
                now_s,
                now_s,
            ),
        )
        return type(self)(self.origin, session_id, (), source)


def _insert(connection: sqlite3.Connection, session_id: str, number: int, kept: Kept) -> int:
    question, attached = plain(kept.turn.text), attached_names(kept.turn)
    row = connection.execute(
        "INSERT INTO turns (session_id, number, asked_s, question, attached, thought, answer,"
        " state, receipt) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (session_id, number, kept.asked_s, question, attached, *_answer(kept)),
    ).lastrowid
    assert row is not None
    keep_attachments(connection, row, kept.turn)
    return row


def _update(connection: sqlite3.Connection, row: int, kept: Kept) -> None:
    connection.execute(
        "UPDATE turns SET thought = ?, answer = ?, state = ?, receipt = ? WHERE id = ?",
        (*_answer(kept), row),
    )


def _answer(kept: Kept) -> tuple[str, str, str, str]:
    return plain(kept.thought), plain(kept.answer), kept.state, kept.receipt.to_json()


def _delete(connection: sqlite3.Connection, rows: Sequence[int]) -> None:
    connection.executemany("DELETE FROM turns WHERE id = ?", [(row,) for row in rows])


def _common_length(first: Sequence[UserTurn], second: Sequence[UserTurn]) -> int:
    pairs = zip(first, second, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _title(turn: UserTurn) -> str:
    """The beginning of the question, or what came with it, on one line."""
    return plain(short_title(turn.text or attached_names(turn)))
