"""The plan as a promise: what was taken of a device beside what was said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from rqchat.engine.conversation import UserTurn
from rqchat.engine.events import Done, Event
from rqchat.engine.inputs.pictures import Picture
from rqchat.engine.planning.plan import MemoryPlan
from rqchat.engine.session import ChatSession
from rqchat.engine.settings import SamplingSettings, Settings

__all__ = ["LoadReport", "Measured", "measure_load", "measured_parts"]

_SIDE_PIXELS = 768  # a picture of the default 280 soft tokens
_OUTPUT_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Measured:
    """A part of the memory, as it was planned and as it was measured."""

    part: str
    planned_bytes: int
    measured_bytes: int


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What loading a model took.

    Attributes:
        model: its name.
        plan: what was promised.
        load_s: seconds until it could answer.
        parts: weights, KV cache, and the peak of everything.
    """

    model: str
    plan: MemoryPlan
    load_s: float
    parts: tuple[Measured, ...]


def measure_load(settings: Settings, on_event: Callable[[Event], None]) -> LoadReport:
    """Loads the model that `settings` name, answers one question about a picture, and measures.

    Raises:
        RqchatError: it cannot be loaded.
    """
    session = ChatSession.open(settings, on_event=on_event)
    grey = Image.new("RGB", (_SIDE_PIXELS, _SIDE_PIXELS), "grey")
    picture = Picture("grey", _SIDE_PIXELS, _SIDE_PIXELS, grey)
    turn = UserTurn("What is this?", pictures=(picture,) if session.sees_pictures else ())
    *_, last = session.ask(turn, SamplingSettings(temperature=0, max_tokens=_OUTPUT_TOKENS))
    assert isinstance(last, Done)
    return LoadReport(
        session.model_name, session.plan, last.timing.load_s, measured_parts(session, last)
    )


def measured_parts(session: ChatSession, done: Done) -> tuple[Measured, ...]:
    """Planned beside measured, after an answer that ended with `done`.

    The cache is compared with what it holds; a plan counts the full context, which a cache made for
    it takes at once. The peak of a GPU is what torch's allocator took of it: CUDA's own memory and
    what is left free are not in it. That of a CPU is the resident size.
    """
    planned = session.plan.chosen.bytes
    peak = planned.reserved if session.plan.device.is_gpu else planned.total
    return (
        Measured("weights", planned.weights, session.weight_bytes),
        Measured("KV cache", planned.kv_global + planned.kv_sliding, session.cache_bytes),
        Measured("peak", peak, done.memory.peak_bytes),
    )
