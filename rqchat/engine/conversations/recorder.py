"""Keeps a live conversation in the store: the turn before the model starts, its answer as it grows.

What goes wrong with the store never stops the conversation: it is reported once, and what could
not be written is written with a later turn, as soon as it can be.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rqchat.engine.conversation import Message, UserTurn
from rqchat.engine.conversations.database import Database
from rqchat.engine.conversations.load import SavedConversation
from rqchat.engine.conversations.receipt import Receipt
from rqchat.engine.conversations.records import Origin, TurnState
from rqchat.engine.conversations.rows import Kept, SessionRows
from rqchat.engine.events import Done, Event, TextDelta, ThoughtDelta
from rqchat.engine.session_api import Session
from rqchat.engine.settings import SamplingSettings
from rqchat.errors import StoreError

__all__ = ["RecordedTurn", "Recorder"]

_GROWTH_S = 0.5
_GROWTH_SHARE = 0.05  # of the time at most goes into writing an answer that still grows


def _ignore(kept: Kept) -> None:
    """Nothing is stored."""


def _no_cost(kept: Kept) -> float:
    return 0.0


class RecordedTurn:
    """One turn while it is answered. `note` takes every event, before anybody else sees it."""

    def __init__(
        self,
        asked: Kept,
        begin: Callable[[Kept], None] = _ignore,
        write: Callable[[Kept], float] = _no_cost,
    ) -> None:
        """`begin` stores the question, `write` the answer so far, and says how long it took."""
        self._asked, self._begin, self._write = asked, begin, write
        self._answer = [asked.receipt.begun]
        self._thought: list[str] = []
        self._done: Done | None = None
        self._next_write_s = 0.0
        self.has_begun = False

    def note(self, event: Event) -> None:
        """Takes an event, and stores what it adds if that is due."""
        if not self.has_begun:  # the first event comes before the model starts
            self._begin(self._asked)
            self.has_begun = True
            self._next_write_s = time.monotonic() + _GROWTH_S
        match event:
            case TextDelta(text):
                self._answer.append(text)
            case ThoughtDelta(text):
                self._thought.append(text)
            case Done():
                self._done = event
            case _:
                return
        if self._done is None and time.monotonic() >= self._next_write_s:
            cost_s = self._write(self._so_far())
            self._next_write_s = time.monotonic() + max(_GROWTH_S, cost_s / _GROWTH_SHARE)

    def end(self) -> Kept:
        """The turn with its answer, whole or interrupted."""
        stopped = self._done is None or self._done.stop_reason == "interrupted"
        state: TurnState = "interrupted" if stopped else "complete"
        receipt = self._asked.receipt
        receipt = receipt.end(self._done) if self._done else receipt
        return replace(self._so_far(), state=state, receipt=receipt)

    def _so_far(self) -> Kept:
        """The turn with what came so far, as the session itself keeps it."""
        answer, thought = "".join(self._answer).rstrip(), "".join(self._thought).strip()
        return replace(self._asked, answer=answer, thought=thought)


class Recorder:
    """Records one conversation at a time. Not for two threads at the same time.

    Args:
        path: the store; None records nothing until `keep_in` names one.
        origin: `chat` or `ask`.
        warn: gets one sentence when the store first cannot be written.
    """

    def __init__(self, path: Path | None, origin: Origin, warn: Callable[[str], None]) -> None:
        self._path, self._origin, self._warn = path, origin, warn
        self._warned = False
        self._database: Database | None = None
        self._kept: list[Kept] = []
        self._rows = SessionRows(origin)
        self._past: list[Kept] = []  # turns that were taken back, and may come again
        self._asides: list[Kept] = []  # turns that nobody asked, such as for a summary
        self._left: list[tuple[list[Kept], SessionRows]] = []  # conversations likewise

    @property
    def session_id(self) -> str | None:
        """Under which id the conversation can be found; None while it is not being saved."""
        return self._rows.session_id if self._path is not None else None

    @contextmanager
    def turn(
        self,
        session: Session,
        turn: UserTurn,
        sampling: SamplingSettings,
        *,
        begun: str = "",
        schema: str | None = None,
    ) -> Iterator[RecordedTurn]:
        """Within, the events of `session.ask` are to be noted; without any, nothing is saved.

        An answer that breaks off is kept as far as it came, so the events are to be closed first:

            with recorder.turn(session, turn, sampling) as recorded:
                with closing(session.ask(turn, sampling)) as events:
                    for event in events:
                        recorded.note(event)
        """
        receipt = replace(Receipt.begin(session, sampling), begun=begun, schema=schema)
        before = len(session.messages)

        def begin(asked: Kept) -> None:
            self._align(session, turn)
            self._begin(asked)

        recorded = RecordedTurn(Kept(turn, time.time(), receipt), begin, self._write)
        try:
            yield recorded
        finally:
            if recorded.has_begun:
                kept = recorded.end()
                # The session's own text, because `_align` compares turns with its messages.
                if len(session.messages) > before:
                    kept = replace(kept, answer=session.messages[-1].text)
                self._write(kept)

    @contextmanager
    def aside(
        self, session: Session, turn: UserTurn, sampling: SamplingSettings
    ) -> Iterator[RecordedTurn]:
        """As `turn`, for one that is not saved unless the conversation comes to hold it."""
        recorded = RecordedTurn(Kept(turn, time.time(), Receipt.begin(session, sampling)))
        yield recorded
        kept = recorded.end()
        self._past.append(kept)
        self._asides.append(kept)

    def follow(self, session: Session) -> None:
        """Brings the store after the conversation where that was cut back, continued or rewritten.

        A conversation that is empty now is left as it is saved: the next turn begins another.
        """
        self._align(session)
        self._flush()

    def adopt(self, saved: SavedConversation) -> None:
        """Goes on with a saved session."""
        rows = SessionRows(self._origin, saved.record.id, saved.turns)
        self._leave([kept for _, kept in saved.turns], rows)

    def fork(self) -> str | None:
        """Goes on in a copy; its id, or None where nothing could be saved."""
        rows = SessionRows(self._origin, forked_from=self.session_id)
        self._leave(list(self._kept), rows)
        self._flush()
        return self.session_id

    def forget(self) -> None:
        """Begins another conversation; the one so far stays as it is saved."""
        self._leave([], SessionRows(self._origin))

    def keep_in(self, path: Path) -> str | None:
        """Records in `path` from now on, what was said so far included; the session's id."""
        self._path = path
        self._flush()
        return self.session_id

    def close(self) -> None:
        """Writes what could not be written before, if it can be now, and closes the store."""
        self._flush()
        self._close()

    def _align(self, session: Session, turn: UserTurn | None = None) -> None:
        """Brings what is kept here after the conversation, to which `turn` is about to be added."""
        pairs = list(zip(session.messages[::2], session.messages[1::2], strict=True))
        if _is_another(self._kept, pairs):
            self._return_to(pairs)
        answered, same = _common(self._kept, pairs)
        if same == len(pairs) == len(answered):
            return
        if not pairs:
            self._align_to_none(len(answered), turn)
            return
        cut = (
            answered[same] if same < len(answered) else _without_repeated(self._kept, pairs[same:])
        )
        gone, come = self._kept[cut:], pairs[same:]
        if [kept for kept in gone if kept.is_answered] and come and not _is_continued(gone, come):
            # After /compact the first question is the request for a summary, which is no title.
            named_by = (
                gone[0].turn if any(each.is_pair(*come[0]) for each in self._asides) else None
            )
            rows = SessionRows(self._origin, forked_from=self.session_id, named_by=named_by)
            self._leave(self._kept[:cut], rows)
        self._past += gone
        self._kept = self._kept[:cut] + [self._known(pair, session, gone) for pair in come]

    def _known(self, pair: tuple[Message, Message], session: Session, gone: Sequence[Kept]) -> Kept:
        """A turn that came back or was put there, with the receipt that is known of it."""
        for kept in reversed(self._past):
            if kept.is_pair(*pair):
                return kept
        receipt = gone[0].receipt if gone else Receipt.begin(session, SamplingSettings())
        return Kept.of(*pair, receipt)

    def _leave(self, kept: list[Kept], rows: SessionRows) -> None:
        """Goes on with other rows; a conversation that comes back finds its own again."""
        if self._rows.session_id is not None:
            self._left.append((self._kept, self._rows))
        self._kept, self._rows = kept, rows

    def _return_to(self, pairs: Sequence[tuple[Message, Message]]) -> None:
        """Takes up the conversation that was left and is back, if there is one."""
        for position, (kept, rows) in enumerate(self._left):
            answered, same = _common(kept, pairs)
            if same == len(answered) == len(pairs):
                del self._left[position]
                self._leave(kept, rows)
                return

    def _align_to_none(self, answered: int, turn: UserTurn | None) -> None:
        """The conversation is empty: cleared, or about to get its only answer anew."""
        if answered > 1 or (turn is not None and self._kept[-1].turn != turn):
            self.forget()
        elif turn is not None:
            self._past += self._kept
            self._kept = []

    def _begin(self, kept: Kept) -> None:
        if self._kept and not self._kept[-1].is_answered and self._kept[-1].turn == kept.turn:
            del self._kept[-1]  # asked again
        self._kept.append(kept)
        self._flush()

    def _write(self, kept: Kept) -> float:
        """Writes the last turn as it is now; the seconds that took."""
        self._kept[-1] = kept
        return self._flush()

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _flush(self) -> float:
        """Makes the store equal to what is kept here; the seconds that took."""
        begun_s = time.monotonic()
        if self._path is not None and self._rows.differ(self._kept):
            with self._warned_once():
                if self._database is not None and not self._database.can_write:
                    self._close()  # there may be space again
                if self._database is None:
                    self._database = Database.open(self._path)
                before = self.session_id
                self._rows = self._rows.brought_to(self._kept, self._database)
                if before not in (None, self.session_id):
                    self._warn(
                        f"conversation {before} went on elsewhere; this one is {self.session_id}"
                    )
        return time.monotonic() - begun_s

    @contextmanager
    def _warned_once(self) -> Iterator[None]:
        try:
            yield
        except StoreError as error:
            if not self._warned:
                self._warn(f"this conversation is not being saved: {error}")
            self._warned = True


def _common(
    kept: Sequence[Kept], pairs: Sequence[tuple[Message, Message]]
) -> tuple[list[int], int]:
    """Indices of the turns with an answer, and how many of them `pairs` begin with."""
    answered = [index for index, each in enumerate(kept) if each.is_answered]
    for same, (index, pair) in enumerate(zip(answered, pairs, strict=False)):
        if not kept[index].is_pair(*pair):
            return answered, same
    return answered, min(len(answered), len(pairs))


def _is_another(kept: Sequence[Kept], pairs: Sequence[tuple[Message, Message]]) -> bool:
    """Whether `pairs` are neither what is kept, nor its beginning, nor more than it."""
    answered, same = _common(kept, pairs)
    return same < len(pairs) and (same < len(answered) or not answered)


def _without_repeated(kept: Sequence[Kept], come: Sequence[tuple[Message, Message]]) -> int:
    """How many of `kept` stay where the last one has no answer, and its question comes with one."""
    is_repeated = bool(kept) and not kept[-1].is_answered and kept[-1].is_question(come[0][0])
    return len(kept) - is_repeated


def _is_continued(kept: Sequence[Kept], pairs: Sequence[tuple[Message, Message]]) -> bool:
    """Whether the last answer merely went on."""
    (asked, answer), *others = pairs
    return (
        len(kept) == 1
        and not others
        and kept[0].is_question(asked)
        and answer.text.startswith(kept[0].answer)
    )
