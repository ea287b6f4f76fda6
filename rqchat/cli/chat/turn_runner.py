"""The turns of a chat: asked in a thread of their own, kept, and taken back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rqchat.engine.conversation import Message, UserTurn
from rqchat.engine.events import Done
from rqchat.engine.settings import SamplingSettings
from rqchat.errors import UsageError

if TYPE_CHECKING:
    from rqchat.cli.chat.chat import Chat
    from rqchat.cli.open_session import Session
    from rqchat.ui.stream import AnswerView

__all__ = ["Messages", "Step", "Talk"]

Messages = tuple[Message, ...]


def _as_it_is(messages: Messages) -> Messages:
    return messages


def _nothing() -> None:
    """Nothing is to be done."""


@dataclass(frozen=True, slots=True)
class Step:
    """One question to the model, and what becomes of the conversation.

    Attributes:
        what: the step's name in what `/undo` says.
        turn: the question.
        sampling: how the answer is drawn.
        base: the conversation that it is put to; None is the present one.
        begun: how the answer begins.
        is_aside: the turn is saved only as far as `settle` keeps it.
        settle: from the conversation that the model left to the one to keep, in the thread; an
            RqchatError says why there is none, and all is as it was before.
        on_kept, on_lost: called in the thread when the conversation has grown or not.
    """

    what: str
    turn: UserTurn
    sampling: SamplingSettings
    base: Messages | None = None
    begun: str = ""
    is_aside: bool = False
    settle: Callable[[Messages], Messages] = _as_it_is
    on_kept: Callable[[], None] = _nothing
    on_lost: Callable[[], None] = _nothing


@dataclass(frozen=True, slots=True)
class _Former:
    """What the conversation was before `what` was done, and what else takes that back."""

    what: str
    messages: Messages
    undo: Callable[[], None] = _nothing


class Talk:
    """The conversation of one chat, with every state that it went through.

    Attributes:
        view: the last answer on the screen.
    """

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._former: list[_Former] = []
        # Joining a thread is no way to wait: interrupted, it takes the thread for dead
        self._idle = threading.Event()
        self._idle.set()
        self.view: AnswerView | None = None
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

    def _count(self, session: Session) -> int:
        state = (session.model_name, session.system, session.thinking, session.messages)
        if self._counted != state:
            is_empty = not (session.messages or session.system)
            parts = () if is_empty else session.context_parts()
            self._counted, self._counted_tokens = state, sum(part.tokens for part in parts)
        return self._counted_tokens

    def start(self, step: Step) -> None:
        """Ask in a thread of its own.

        Raises:
            RqchatError: the model cannot be opened.
        """
        session = self._chat.session()
        self._idle.clear()
        threading.Thread(
            target=self._run, args=(step, session), name="rqchat-answer", daemon=True
        ).start()

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until the answer is there."""
        self._idle.wait(timeout_s)

    def change(self, what: str, messages: Messages, *, undo: Callable[[], None] = _nothing) -> None:
        """Go on from other `messages`; `/undo` takes that back, and calls `undo`."""
        session = self._chat.session()
        self._former.append(_Former(what, session.messages, undo))
        session.restore(messages)
        self._chat.changed(session)

    def undo(self) -> str:
        """Take back the last change, or the last turn of a conversation that was loaded; its name.

        Raises:
            UsageError: there is nothing to take back.
        """
        session = self._chat.session()
        if self._former:
            former = self._former.pop()
        elif session.messages:
            former = _Former("the last turn", session.messages[:-2])
        else:
            raise UsageError("there is nothing to take back")
        session.restore(former.messages)
        former.undo()
        self._chat.changed(session)
        return former.what

    def forget(self) -> None:
        """What was before cannot be taken back from here on."""
        self._former.clear()

    def _run(self, step: Step, session: Session) -> None:
        chat, former = self._chat, session.messages
        grown = False
        try:
            grown = self._ask(step, session)
        except Exception as error:
            chat.report(error)
        finally:
            if grown:
                self._former.append(_Former(step.what, former))
                step.on_kept()
            else:
                session.restore(former)
                step.on_lost()
            chat.changed(session)
            self._idle.set()
            chat.wake()

    def _ask(self, step: Step, session: Session) -> bool:
        """Whether the conversation has grown."""
        if step.base is not None:
            session.restore(step.base)
        base = session.messages
        is_first = not (base or self._former)
        view = self.view = self._chat.new_view(step.begun, recalls=is_first)
        try:
            for event in self._chat.events(session, step):
                view.show(event)
                if isinstance(event, Done):
                    self._chat.last = event
        finally:
            view.close()
            self._chat.say("")
        if len(session.messages) == len(base):
            return False
        session.restore(step.settle(session.messages))
        self._count(session)  # here, where nobody waits for it
        return True
