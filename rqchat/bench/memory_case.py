"""One measurement of `python -m rqchat.bench memory` in a process of its own: JSON in and out."""

from __future__ import annotations

import json
import resource
import sys
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pydoc_data.topics import topics
from typing import Any

import torch
from PIL import Image

from rqchat.bench.meter import TensorMeter
from rqchat.engine.conversation import UserTurn
from rqchat.engine.documents import Document
from rqchat.engine.events import Done
from rqchat.engine.images import Picture
from rqchat.engine.session import ChatSession
from rqchat.engine.settings import SamplingSettings, Settings
from rqchat.errors import RqchatError

__all__ = ["Case", "Outcome", "measure"]

_ANSWER_TOKENS = 8
_SPARE_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Case:
    """What is loaded and read. `cap_bytes` is the card to pretend, 0 for the one that is there."""

    model: str
    weights: str | None
    context_tokens: int
    kv_bits: int | None = None
    cap_bytes: int = 0
    device: str = "auto"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a case took, in bytes and seconds.

    Attributes:
        case, weights, kv_bits, head_bits: what was asked and what was loaded.
        read_tokens: length of the prompt, one picture included.
        planned_bytes: of tensors: weights, caches and workspace.
        measured_bytes: the most that tensors took at a time: of torch's allocator on a GPU, of a
            meter of live storages on a CPU.
        planned_total_bytes: the whole plan.
        process_bytes: what the process took of the GPU, or its peak resident size on a CPU.
        host_bytes: peak resident size.
        load_s, prefill_s, decode_tokens_per_s: how long it took.
    """

    case: Case
    weights: str
    kv_bits: int
    head_bits: int
    read_tokens: int
    planned_bytes: int
    measured_bytes: int
    planned_total_bytes: int
    process_bytes: int
    host_bytes: int
    load_s: float
    prefill_s: float
    decode_tokens_per_s: float


def measure(case: Case) -> Outcome:
    """Loads, reads a picture and a document that fill the context, and answers.

    Raises:
        RqchatError: it does not fit, or cannot be loaded.
    """
    on_gpu = case.device != "cpu" and torch.cuda.is_available()
    meter = None if on_gpu else TensorMeter()
    with meter or nullcontext():
        session = ChatSession.open(
            Settings(
                model=case.model,
                weights=case.weights,
                kv_bits=case.kv_bits,
                context_tokens=case.context_tokens,
                vram_bytes=case.cap_bytes or None,
                device=case.device,
                offline=True,
            )
        )
        if meter:
            model = session._loaded.model
            meter.count([*model.parameters(), *model.buffers()])
            meter.restart()
        turn = _turn(session)
        read_tokens = session.count_tokens(turn)
        *_, done = session.ask(turn, SamplingSettings(temperature=0, max_tokens=_ANSWER_TOKENS))
    assert isinstance(done, Done)
    chosen, host = session.plan.chosen, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if meter:
        measured, process = meter.peak_bytes, host
    else:
        measured, process = torch.cuda.max_memory_allocated(), _taken_bytes()
    return Outcome(
        case,
        chosen.weights,
        chosen.kv_bits,
        chosen.head_bits,
        read_tokens,
        chosen.bytes.total - chosen.bytes.reserve,
        measured,
        chosen.bytes.total,
        process,
        host,
        done.timing.load_s,
        done.timing.prefill_s,
        done.timing.decode_tokens_per_s,
    )


def _taken_bytes() -> int:
    """What this process holds of the GPU at its peak: blocks of torch's allocator and CUDA's own.

    Others on the card are counted with it, so measure on one that nobody uses.
    """
    free, total = torch.cuda.mem_get_info()
    return total - free + torch.cuda.max_memory_reserved() - torch.cuda.memory_reserved()


def _turn(session: ChatSession) -> UserTurn:
    """A picture and as much prose of the Python reference as the context holds."""
    grey = Picture("grey", 768, 768, Image.new("RGB", (768, 768), "grey"))
    pictures = (grey,) if session.sees_pictures else ()
    prose = "\n\n".join(topics[name] for name in sorted(topics))
    wanted = session.context_tokens - _ANSWER_TOKENS - _SPARE_TOKENS
    sample = UserTurn("What?", pictures, (Document("prose", prose[:20_000]),))
    empty = session.count_tokens(UserTurn("What?", pictures, (Document("prose", "a"),)))
    per_token = 20_000 / (session.count_tokens(sample) - empty)
    length = int((wanted - empty) * per_token)
    while True:
        text = (prose * (1 + length // len(prose)))[:length]
        turn = UserTurn("What?", pictures, (Document("prose", text),))
        over = session.count_tokens(turn) - wanted
        if over <= 0:
            return turn
        length -= int((over + 8) * per_token) + 1


def main() -> None:
    """Measures the case in the first argument and prints one line of JSON."""
    case = Case(**json.loads(sys.argv[1]))
    result: dict[str, Any]
    try:
        result = asdict(measure(case))
    except RqchatError as error:
        result = {"case": asdict(case), "error": str(error)}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
