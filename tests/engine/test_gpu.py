"""The whole way on a GPU, with the pocket model: kernels, captured steps, memory as planned."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rqchat.engine.conversation import UserTurn
from rqchat.engine.events import Done, Event, Notice, TextDelta
from rqchat.engine.inputs.documents import Document
from rqchat.engine.inputs.pictures import read_picture
from rqchat.engine.session import ChatSession
from rqchat.engine.settings import SamplingSettings, Settings

ROOT = Path(__file__).resolve().parents[2]
QUESTION = "What is the access code for the north gate?"
PROSE = (
    "The tide came in before noon and the boats were pulled up the sand. Nobody spoke of the storm"
    " that had been promised, and the children were sent to gather driftwood for the evening. "
)

pytestmark = pytest.mark.gpu
if not torch.cuda.is_available():
    pytest.skip("there is no GPU", allow_module_level=True)


def _ask(session: ChatSession, turn: UserTurn) -> tuple[str, list[Event]]:
    events = list(session.ask(turn, SamplingSettings(temperature=0.0, max_tokens=80)))
    return "".join(each.text for each in events if isinstance(each, TextDelta)), events


@pytest.mark.parametrize("weights", ["bf16", "int8", "int4"])
@pytest.mark.parametrize("kv_bits", [16, 6, 4])
def test_a_gpu_answers_as_planned_and_as_a_cpu_does(kv_bits: int, weights: str) -> None:
    gate = "The access code for the north gate is 48213. "
    document = Document("tale.txt", PROSE * 20 + gate + PROSE * 22)
    settings = Settings(model="pocket", device="cuda", kv_bits=kv_bits, weights=weights)
    session = ChatSession.open(settings)
    try:
        answer, events = _ask(session, UserTurn(QUESTION, documents=(document,)))
        assert answer == gate.strip()
        # A notice would be a step that could not be captured, or memory that ran short
        assert not [each for each in events if isinstance(each, Notice)]
        done = events[-1]
        assert isinstance(done, Done)
        assert done.memory.peak_bytes <= done.memory.planned_bytes
        session.clear()
        picture = read_picture(ROOT / "docs" / "images" / "shapes.png")
        answer, _ = _ask(session, UserTurn("What is in this picture?", pictures=(picture,)))
        assert all(each in answer for each in ("red circle", "blue star", "green triangle"))
    finally:
        session.close()
