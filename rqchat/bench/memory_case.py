"""One rung of `python -m rqchat.bench memory` in a process of its own: JSON in, a line per context.

The weights are random and made on the device, the context is filled and not read;
what is measured then is real: two chunks of text, a picture, a question, and an answer.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any
from unittest.mock import patch

import torch
from PIL import Image

import rqchat
from rotorquant.layers.kept_rows import RowKeeper
from rqchat.bench.checkpoint import copy_small_files
from rqchat.bench.meter import AllocatorMeter, TensorMeter, meter_of
from rqchat.bench.random_weights import MID_TEXT, RandomSource
from rqchat.engine.conversation import UserTurn
from rqchat.engine.events import Done
from rqchat.engine.generation.generate import Steps
from rqchat.engine.generation.prompt import Prompt
from rqchat.engine.inputs.documents import Document
from rqchat.engine.inputs.pictures import Picture
from rqchat.engine.loading.loader import LoadedModel, load_model
from rqchat.engine.loading.memory_in_use import release_unused
from rqchat.engine.loading.open_model import OpenedModel, limit_gpu_memory
from rqchat.engine.model_files.resolve import POCKET, ModelSource, resolve_model
from rqchat.engine.planning.devices import device_for
from rqchat.engine.planning.known_models import known_model
from rqchat.engine.planning.plan import MemoryPlan, make_plan
from rqchat.engine.planning.shape import ModelShape
from rqchat.engine.session import ChatSession
from rqchat.engine.settings import WEIGHTS, SamplingSettings, Settings
from rqchat.errors import RqchatError

__all__ = ["MID", "POCKET_FOLDER", "Case", "Failure", "Outcome", "config_of", "measure"]

MID = "random, 100 M"
POCKET_FOLDER = Path(rqchat.__file__).parent / POCKET
_PACKED = ("int4", "int3", "int2")  # made from Google's 4-bit files, as with a model of the catalog
_FIRST_TOKENS, _TIMED_TOKENS, _LONGER = 8, 32, 4
_SPARE_TOKENS = 64
_FILL_TOKENS = 4096
_REAL_CHUNKS = 2  # text left to read before the picture
_SIDE_PIXELS = 768  # a picture of the default 280 soft tokens


@dataclass(frozen=True, slots=True)
class Case:
    """What is loaded, and the contexts that are filled one after the other.

    Attributes:
        model: `pocket`, `MID`, or a model of the catalog.
        weights, kv_bits: the rung; None as the plan has it.
        contexts: in tokens.
        cap_bytes: the card to pretend, 0 for the one that is there.
        device: as in `Settings`.
        profile: whether kernels of decode steps are counted and timed, on a GPU.
    """

    model: str
    weights: str | None
    contexts: tuple[int, ...]
    kv_bits: int | None = None
    cap_bytes: int = 0
    device: str = "auto"
    profile: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a rung took with one context, in bytes and seconds.

    Attributes:
        weights, kv_bits, head_bits, sliding_bits, chunk_tokens, context_tokens: what was planned.
        prompt_tokens, read_tokens: length of the prompt, and how much of it was really read.
        planned_bytes: of tensors: weights, caches and workspace.
        measured_bytes: the most that tensors took at a time while it answered.
        planned_reserved_bytes, reserved_bytes: what torch's allocator takes of a GPU for them.
        load_peak_bytes: the most that they took while the weights were placed.
        planned_total_bytes: the whole plan.
        process_bytes: what the process took of the GPU, or its peak resident size on a CPU.
        host_bytes: peak resident size.
        placed_s: making, quantizing and placing the weights.
        prefill_tokens_per_s: of what was read on top of the filled context, picture included.
        decode_tokens_per_s: at the end of the context, by replays of a captured step where there
            are any; the capture itself is left out.
        plain_tokens_per_s: the same without capture; 0 where nothing is captured.
        launches: of kernels for a token without capture; 0 where they were not counted.
    """

    weights: str
    kv_bits: int
    head_bits: int
    sliding_bits: int
    chunk_tokens: int
    context_tokens: int
    prompt_tokens: int
    read_tokens: int
    planned_bytes: int
    measured_bytes: int
    planned_reserved_bytes: int
    reserved_bytes: int
    load_peak_bytes: int
    planned_total_bytes: int
    process_bytes: int
    host_bytes: int
    placed_s: float
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    plain_tokens_per_s: float
    launches: float = 0.0


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no outcome."""

    error: str


def measure(case: Case) -> Iterator[Outcome | Failure]:
    """Loads once, then fills every context, reads, answers and measures: a record for each."""
    try:
        for tokens, done in zip(case.contexts, _measured(case), strict=True):
            yield done if isinstance(done, Outcome) else Failure(f"{tokens:,} tokens: {done.error}")
    except (RqchatError, torch.OutOfMemoryError) as error:
        yield from [Failure(_first_line(error))] * len(case.contexts)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _measured(case: Case) -> Iterator[Outcome | Failure]:
    """Raises RqchatError where nothing can be loaded, before anything is yielded."""
    asked = Settings(
        weights=case.weights,
        kv_bits=case.kv_bits,
        vram_bytes=case.cap_bytes or None,
        device=case.device,
        offline=True,
    )
    device = device_for(asked)
    shape = ModelShape.from_config(config_of(case.model))

    def plan_of(settings: Settings, tokens: int) -> MemoryPlan:
        tokens = min(tokens, shape.max_context_tokens)
        return make_plan(shape, device, dataclasses.replace(settings, context_tokens=tokens))

    longest = plan_of(asked, max(case.contexts))
    limit_gpu_memory(longest)
    chosen = longest.chosen
    weights = chosen.weights if chosen.weights in WEIGHTS else None  # fp32 cannot be asked for
    same_weights = dataclasses.replace(asked, weights=weights, head_bits=chosen.head_bits)
    with meter_of(torch.device(device.torch_name)) as meter:
        loaded = _load(case.model, longest)
        meter.count([*loaded.model.parameters(), *loaded.model.buffers()])
        load_peak = meter.peak_bytes
        for tokens in case.contexts:
            try:
                opened = OpenedModel(loaded, plan_of(same_weights, tokens), case.model)
                # What marks copy lies in the host's memory, from where `rewind` takes it
                with patch.object(RowKeeper, "keep", meter.ignoring(RowKeeper.keep)):
                    outcome = _answered(opened, meter, load_peak, profile=case.profile)
                yield outcome
            except (RqchatError, torch.OutOfMemoryError) as error:
                yield Failure(_first_line(error))
            release_unused()


def config_of(model: str) -> dict[str, object]:
    """The config.json of a model that cases can have."""
    own: dict[str, object] = json.loads((POCKET_FOLDER / "config.json").read_text(encoding="utf-8"))
    known = known_model(model)
    if known is not None:
        return dict(known.config)
    if model == POCKET:
        return own
    assert isinstance(own["text_config"], dict)
    text = {"vocab_size": own["text_config"]["vocab_size"], "attention_k_eq_v": True}
    return {
        "model_type": "gemma4",
        "vision_config": own["vision_config"],
        "text_config": {"model_type": "gemma4_text", **text, **MID_TEXT},
    }


def _load(model: str, plan: MemoryPlan) -> LoadedModel:
    if model == POCKET:
        source = resolve_model(Settings(model=POCKET), plan.device)
        return load_model(source, plan, lambda event: None, offline=True)
    with tempfile.TemporaryDirectory() as folder:
        config = copy_small_files(Path(folder), config_of(model), POCKET_FOLDER)
        source = ModelSource(model, config, Path(folder))
        weights = RandomSource(config, packed=plan.chosen.weights in _PACKED)
        return load_model(source, plan, lambda event: None, offline=True, weights=weights)


def _answered(
    opened: OpenedModel,
    meter: AllocatorMeter | TensorMeter,
    load_peak_bytes: int,
    *,
    profile: bool,
) -> Outcome:
    """Reads and answers on top of a filled context, twice; only the second time is timed."""
    session = ChatSession(opened)
    cache = session._prefix.cache
    setattr(cache, "rewind", meter.ignoring(cache.rewind))  # noqa: B010
    first, second = (_turn(session, color) for color in ("grey", "white"))
    filled = _prefill(session, session._write(first))
    meter.restart()
    _ask(session, first, _FIRST_TOKENS)
    session._messages = ()  # what was filled stays
    done = _ask(session, second, _TIMED_TOKENS)
    rate, plain_rate = _decode_rates(session, second, done)
    counted = profile and opened.plan.device.torch_name.startswith("cuda")
    launches = _launches(session, second) if counted else 0.0
    plan, chosen = opened.plan, opened.plan.chosen
    if session.plan != plan:
        raise RqchatError("it ran out of memory, and gave up a part of its plan to go on")
    # Linux counts `ru_maxrss` in KiB.
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert done.tokens.cached == filled, (done.tokens.cached, filled)
    return Outcome(
        weights=chosen.weights,
        kv_bits=chosen.kv_bits,
        head_bits=chosen.head_bits,
        sliding_bits=chosen.sliding_bits,
        chunk_tokens=chosen.chunk_tokens,
        context_tokens=chosen.context_tokens,
        prompt_tokens=done.tokens.input,
        read_tokens=done.tokens.input - filled,
        planned_bytes=chosen.bytes.total - chosen.bytes.reserve,
        measured_bytes=meter.peak_bytes,
        planned_reserved_bytes=chosen.bytes.reserved if plan.device.is_gpu else 0,
        reserved_bytes=meter.peak_reserved_bytes,
        load_peak_bytes=load_peak_bytes,
        planned_total_bytes=chosen.bytes.total,
        process_bytes=_taken_bytes() if plan.device.torch_name.startswith("cuda") else host,
        host_bytes=host,
        placed_s=opened.loaded.load_s,
        prefill_tokens_per_s=done.timing.prefill_tokens_per_s,
        decode_tokens_per_s=rate,
        plain_tokens_per_s=plain_rate,
        launches=launches,
    )


def _decode_rates(session: ChatSession, turn: UserTurn, done: Done) -> tuple[float, float]:
    """Tokens per second by captured steps, from two lengths of answers, and by plain ones."""
    plain = done.timing.decode_tokens_per_s
    if not session._steps.ahead:
        return plain, 0.0
    session._messages = ()
    longer = _ask(session, turn, _LONGER * _TIMED_TOKENS)
    # Capturing takes as long in both answers: the difference is free of it.
    tokens = longer.tokens.output - done.tokens.output
    seconds = longer.timing.decode_s - done.timing.decode_s
    session._messages, session._steps = (), Steps(None)
    plain = _ask(session, turn, _TIMED_TOKENS).timing.decode_tokens_per_s
    return tokens / seconds if seconds > 0 else 0.0, plain


def _launches(session: ChatSession, turn: UserTurn) -> float:
    """Kernels of a token, by two lengths of answers; what they take goes to standard error."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    session._steps, counts, tables = Steps(None), [], []
    for tokens in (_FIRST_TOKENS, 2 * _FIRST_TOKENS):
        session._messages = ()
        with torch.profiler.profile(activities=activities) as profiler:
            _ask(session, turn, tokens)
        averages = profiler.key_averages()
        counts.append(sum(each.count for each in averages if each.device_time_total))
        tables.append(averages.table(sort_by="device_time_total", row_limit=30))
    sys.stderr.write(tables[-1] + "\n")
    return (counts[1] - counts[0]) / _FIRST_TOKENS


def _ask(session: ChatSession, turn: UserTurn, tokens: int) -> Done:
    *_, done = session.ask(turn, SamplingSettings(temperature=0, max_tokens=tokens))
    assert isinstance(done, Done)
    return done


def _taken_bytes() -> int:
    """What this process holds of the GPU at its peak: blocks of torch's allocator and CUDA's own.

    Others on the card are counted with it, so measure on one that nobody uses.
    """
    free, total = torch.cuda.mem_get_info()
    return total - free + torch.cuda.max_memory_reserved() - torch.cuda.memory_reserved()


def _turn(session: ChatSession, color: str) -> UserTurn:
    """A picture and as much prose of the Python reference as the context holds."""
    side = _SIDE_PIXELS
    pictures = (
        (Picture(color, side, side, Image.new("RGB", (side, side), color)),)
        if session.sees_pictures
        else ()
    )
    prose = "\n\n".join(topics[name] for name in sorted(topics))
    wanted = session.context_tokens - _LONGER * _TIMED_TOKENS - _SPARE_TOKENS
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
        if length <= 0:
            raise RqchatError(f"{session.context_tokens:,} tokens hold no picture and an answer")


def main() -> None:
    """Measures the case in the first argument and prints a line of JSON for each context."""
    for found in measure(Case(**json.loads(sys.argv[1]))):
        sys.stdout.write(json.dumps(asdict(found)) + "\n")
        sys.stdout.flush()


def _prefill(session: ChatSession, prompt: Prompt) -> int:
    """Makes `session` hold the beginning of `prompt`; how many tokens that are.

    What a cache occupies does not depend on what was read, and reading 256K tokens with 31 billion
    weights takes minutes on any card. Every token goes through the cache's own `update`, chunk by
    chunk, so rings, exact windows and packed pages are those of a prompt of that length.

    What is left is a text of two chunks at least, the picture, and the question.
    """
    chunk_tokens, prefix = session.plan.chosen.chunk_tokens, session._prefix
    ahead = prompt.images[0].start if prompt.images else prompt.content_tokens
    tokens = max(ahead - _REAL_CHUNKS * chunk_tokens, 0)
    prefix.reset()
    _fill_cache(session._loaded.model, prefix.cache, tokens, chunk_tokens)
    prefix.extend(prompt.keys[:tokens])
    if tokens:
        prefix.mark()
    return tokens


def _fill_cache(model: Any, cache: Any, tokens: int, chunk_tokens: int) -> None:
    """Stores `tokens` random tokens in the empty `cache` of `model`, the last ones in chunks."""
    text = model.model.language_model
    draw = torch.Generator(model.device).manual_seed(0)
    done = 0
    with torch.no_grad():
        while done < tokens:
            left = tokens - done - 2 * chunk_tokens
            step = min(_FILL_TOKENS if left >= _FILL_TOKENS else chunk_tokens, tokens - done)
            places = torch.arange(done, done + step, device=model.device).unsqueeze(0)
            # The cache takes positions from here, as it does in a forward pass
            nothing = torch.empty(1, 0, device=model.device, dtype=model.dtype)
            text.rotary_emb(nothing, places, text.config.layer_types[0])
            for layer in text.layers:
                _store(layer.self_attn, cache, step, draw, model)
            done += step


def _store(attention: Any, cache: Any, tokens: int, draw: torch.Generator, model: Any) -> None:
    if attention.is_kv_shared_layer:
        return
    heads = attention.k_proj.out_features // attention.head_dim
    shape = 1, heads, tokens, attention.head_dim
    key, value = (
        torch.randn(shape, generator=draw, device=model.device).to(model.dtype) for _ in range(2)
    )
    cache.update(key, value, attention.layer_idx)


if __name__ == "__main__":
    main()
