"""The turns of a chat: asked in a thread of their own, remembered, and taken back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from rqchat.engine.conversation import Message, UserTurn
from rqchat.engine.events import Done
from rqchat.engine.settings import SamplingSettings
from rqchat.errors import UsageError

if TYPE_CHECKING:
    from rqchat.engine.conversations.recorder import RecordedTurn
    from rqchat.engine.session_api import Session
    from rqchat.ui.stream import AnswerView

__all__ = ["Messages", "TurnHost", "TurnRequest", "TurnRunner"]

Messages = tuple[Message, ...]


def _unchanged(messages: Messages) -> Messages:
    return messages


def _nothing() -> None:
    """Nothing is to be done."""


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """One question to the model, and what becomes of the conversation.

    Attributes:
        what: the name of the turn in what `/undo` says.
        turn: the question.
        sampling: how the answer is drawn.
        base: the conversation that it is put to; None is the present one.
        begun: how the answer begins.
        is_aside: the turn is saved only as far as `accept` keeps it.
        accept: from the conversation that the model left to the one to go on with, in the thread;
            an RqchatError says why there is none, and all is as it was before.
        on_answered, on_unanswered: called in the thread when the conversation has grown or not.
    """

    what: str
    turn: UserTurn
    sampling: SamplingSettings
    base: Messages | None = None
    begun: str = ""
    is_aside: bool = False
    accept: Callable[[Messages], Messages] = _unchanged
    on_answered: Callable[[], None] = _nothing
    on_unanswered: Callable[[], None] = _nothing


class TurnHost(Protocol):
    """What a turn needs of the chat that it belongs to."""

    def session(self) -> Session:
        """The session, waited for while the model loads; an RqchatError says why there is none."""

    def new_view(self, begun: str = "", *, recalls: bool = False) -> AnswerView:
        """A place on the screen for the next answer."""

    def recording(
        self, session: Session, request: TurnRequest
    ) -> AbstractContextManager[RecordedTurn]:
        """Within, the events of the answer are to be noted, so that it is saved as it comes."""

    def answered(self, done: Done) -> None:
        """An answer is at its end. In the thread of the turn, as all below."""

    def changed(self, session: Session) -> None:
        """The conversation has grown, or was taken back or rewritten."""

    def say(self, text: str, style: str = "note") -> None:
        """Show one line that is no answer."""

    def report(self, error: Exception) -> None:
        """Show what went wrong."""

    def wake(self) -> None:
        """Tell whoever waits at the prompt that the turn has ended."""


@dataclass(frozen=True, slots=True)
class _Undo:
    """What the conversation was before `what` was done, and what else takes that back."""

    what: str
    messages: Messages
    also: Callable[[], None] = _nothing


class TurnRunner:
    """The conversation of one chat, with every state that it went through.

    Attributes:
        view: the last answer on the screen.
        begun: how many turns were asked.
    """

    def __init__(self, host: TurnHost) -> None:
        self._host = host
        self._undos: list[_Undo] = []
        # Joining a thread is no way to wait: interrupted, it takes the thread for dead
        self._idle = threading.Event()
        self._idle.set()
        self.view: AnswerView | None = None
        self.begun = 0
        self._counted: object = None
        self._counted_tokens = 0

    @property
    def is_busy(self) -> bool:
        """Whether an answer is on its way."""
        return not self._idle.is_set()

    def used_tokens(self, session: Session) -> int:
        """What `/context` adds up to; while an answer comes, the tokens that the cache holds."""
        if self.is_busy:
            return session.used_tokens
        return self._count(session)

    def start(self, request: TurnRequest) -> None:
        """Ask in a thread of its own.

        Raises:
            RqchatError: the model cannot be opened.
        """
        session = self._host.session()
        self.begun += 1
        self._idle.clear()
        threading.Thread(
            target=self._run, args=(request, session), name="rqchat-answer", daemon=True
        ).start()

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until the answer is there."""
        self._idle.wait(timeout_s)

    def change(self, what: str, messages: Messages, *, undo: Callable[[], None] = _nothing) -> None:
        """Go on from other `messages`; `/undo` takes that back, and calls `undo`."""
        session = self._host.session()
        self._undos.append(_Undo(what, session.messages, undo))
        session.restore(messages)
        self._host.changed(session)

    def undo(self) -> str:
        """Take back the last change, or the last turn of a conversation that was loaded; its name.

        Raises:
            UsageError: there is nothing to take back.
        """
        session = self._host.session()
        if self._undos:
            undo = self._undos.pop()
        elif session.messages:
            # Of a conversation that was loaded only the turns are known, not how it came about
            undo = _Undo("the last turn", session.messages[:-2])
        else:
            raise UsageError("there is nothing to take back")
        session.restore(undo.messages)
        undo.also()
        self._host.changed(session)
        return undo.what

    def _run(self, request: TurnRequest, session: Session) -> None:
        before = session.messages
        has_grown = False
        try:
            has_grown = self._ask(request, session)
        except Exception as error:
            self._host.report(error)
        finally:
            if has_grown:
                self._undos.append(_Undo(request.what, before))
                request.on_answered()
            else:
                session.restore(before)
                request.on_unanswered()
            # Before `_idle` is set, as the next turn may begin right after that
            self._host.changed(session)
            self._idle.set()
            self._host.wake()

    def _ask(self, request: TurnRequest, session: Session) -> bool:
        """Whether the conversation has grown."""
        if request.base is not None:
            session.restore(request.base)
        base = session.messages
        # Later prompts begin with what this process has read, which is nothing to mention
        is_first = not (base or self._undos)
        self._host.say("")
        view = self.view = self._host.new_view(request.begun, recalls=is_first)
        try:
            answer = session.ask(request.turn, request.sampling, begun=request.begun)
            with self._host.recording(session, request) as recorded, closing(answer) as events:
                for event in events:
                    recorded.note(event)
                    view.show(event)
                    if isinstance(event, Done):
                        self._host.answered(event)
        finally:
            view.close()
            self._host.say("")
        if len(session.messages) == len(base):
            return False
        session.restore(request.accept(session.messages))
        self._count(session)  # here, where nobody waits for it
        return True

    def _count(self, session: Session) -> int:
        state = (session.model_name, session.system, session.thinking, session.messages)
        if self._counted != state:
            is_empty = not (session.messages or session.system)
            parts = () if is_empty else session.context_parts()
            self._counted, self._counted_tokens = state, sum(part.tokens for part in parts)
        return self._counted_tokens
