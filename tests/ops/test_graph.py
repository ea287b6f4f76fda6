"""One captured step serves every later one: places and lengths come from the device.

There is no GPU to capture on, so a tape stands for a CUDA graph: it holds every operation of a step
with its tensors, and playing it repeats them on the same memory, as a graph does. Whatever the step
took from Python stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from rotorquant import RotorQuantCache, StepGraph, watch
from rotorquant.errors import ConfigError
from rotorquant.ops import dispatch
from tests.ops.kernels import DEVICE, Spy
from tests.ops.test_decode_cache import SIZES, _kernels, read  # noqa: F401
from tests.rotorquant.models import SMALL_WINDOW, gemma, random_tokens

# What makes the host wait for the device, or moves a list of Python's there.
WAITS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::lift_fresh", "aten::item"}


class Tape(TorchDispatchMode):
    """Records operations and kernel launches, and repeats them on the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.played: list[Callable[[], None]] = []
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.names.add(func.name().split(".")[0])

        def again() -> None:
            fresh = func(*args, **(kwargs or {}))
            for old, new in zip(tree_leaves(result), tree_leaves(fresh), strict=True):
                # An empty one has meanwhile been given a size, by what fills it
                if isinstance(old, torch.Tensor) and old.shape == new.shape:
                    old.copy_(new)

        self.played.append(again)
        return result

    @torch.no_grad()
    def __call__(self) -> None:
        for each in self.played:
            each()


class Taped:
    """Stands for a kernel whose launches go onto the tape as they are."""

    def __init__(self, inner: Any, tape: Tape) -> None:
        self.inner, self.tape = inner, tape

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        def launch(*arguments: Any, **options: Any) -> None:
            with _disable_current_modes():
                self.inner[grid](*arguments, **options)
            self.tape.played.append(lambda: self.inner[grid](*arguments, **options))

        return launch


def test_one_captured_step_serves_all_that_follow(
    _kernels: dict[str, Spy],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    model, steps, prompt = gemma(**SIZES).to(DEVICE), 24, 45
    tokens = random_tokens(1, prompt + steps).to(DEVICE)
    options: dict[str, Any] = {"bits": 4, "max_tokens": 71, **SMALL_WINDOW}
    eager, cache = (RotorQuantCache(model, **options) for _ in range(2))
    for each in (eager, cache):
        each._watch.late = ("cpu", "cuda")
        read(model, each, tokens[:, :prompt])
    from_gpu = list(_kernels.values())
    monkeypatch.setattr(dispatch, "on_gpu", lambda tensor: True)
    tapes = []

    def capture(step: Callable[[], None]) -> Callable[[], None]:
        tape = Tape()
        tapes.append(tape)
        inner = [spy.inner for spy in from_gpu]
        for spy in from_gpu:
            spy.inner = Taped(spy.inner, tape)
        with tape, monkeypatch.context() as patch:
            patch.setattr(watch, "_capturing", lambda: True)
            step()
        for spy, kernel in zip(from_gpu, inner, strict=True):
            spy.inner = kernel
        return tape

    graph = StepGraph(model, cache, None if DEVICE.type == "cuda" else capture)
    for place in range(prompt, prompt + steps):
        one = tokens[:, place : place + 1]
        assert torch.equal(graph(one), read(model, eager, one)), place
    assert cache.get_seq_length() == eager.get_seq_length() == prompt + steps
    assert cache.packed_tokens == eager.packed_tokens > prompt - 8 - 24
    if DEVICE.type == "cpu":
        (tape,) = tapes
        assert not tape.names & WAITS
    mark = cache.mark()
    assert torch.equal(read(model, cache, one), read(model, eager, one))
    cache.rewind(mark)
    with pytest.raises(Exception, match="exceed max_tokens"):
        for _ in range(3):
            graph(one)
    assert cache.get_seq_length() == 71


def test_a_cache_whose_storage_moves_is_refused() -> None:
    model = gemma(**SIZES)
    with pytest.raises(ConfigError, match="max_tokens"):
        StepGraph(model, RotorQuantCache(model))
