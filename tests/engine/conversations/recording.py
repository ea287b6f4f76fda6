"""Asking with a recorder between, as the commands do."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

from rqchat.engine.conversation import UserTurn
from rqchat.engine.conversations.recorder import Recorder
from rqchat.engine.events import Event
from rqchat.engine.session_api import Session
from rqchat.engine.settings import SamplingSettings

__all__ = ["record"]


def record(
    recorder: Recorder,
    session: Session,
    turn: UserTurn,
    sampling: SamplingSettings,
    *,
    begun: str = "",
) -> Generator[Event, None, None]:
    """The events of an answer, each after it was noted."""
    with (
        recorder.turn(session, turn, sampling, begun=begun) as recorded,
        closing(session.ask(turn, sampling, begun=begun)) as events,
    ):
        for event in events:
            recorded.note(event)
            yield event
