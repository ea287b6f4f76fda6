"""One captured step serves every later one: places and lengths come from the device.

There is no GPU to capture on, so a tape stands for a CUDA graph (`tests/tape.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from rotorquant import RotorQuantCache, StepGraph
from rotorquant.exceptions import CaptureError, ConfigError
from rotorquant.ops import dispatch
from rotorquant.step_graph import CudaRecorder
from tests.rotorquant.models import SMALL_WINDOW, gemma, random_tokens, stored_in
from tests.rotorquant.ops.kernels import DEVICE, Spy
from tests.rotorquant.ops.test_decode_cache import SIZES, UNTIED, decode_kernels, read
from tests.tape import WAITS, Tape, TapeRecorder, decodes_on_device

OPTIONS: dict[str, Any] = {"bits": 4, "max_tokens": 71, **SMALL_WINDOW}


class Taped:
    """Stands for a kernel whose launches go onto the tape and, as in a capture, do not run."""

    def __init__(self, inner: Any, tape: Tape) -> None:
        self.inner, self.tape = inner, tape

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        def launch(*arguments: Any, **options: Any) -> None:
            self.tape.launch(lambda: self.inner[grid](*arguments, **options), None)

        return launch


class KernelTapeRecorder(TapeRecorder):
    """Records the launches of kernels in Triton's interpreter, too."""

    def __init__(self, spies: list[Spy]) -> None:
        super().__init__()
        self._spies = spies

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        def with_kernels() -> None:
            inner = [spy.inner for spy in self._spies]
            for spy in self._spies:
                spy.inner = Taped(spy.inner, self.tapes[-1])
            step()
            for spy, kernel in zip(self._spies, inner, strict=True):
                spy.inner = kernel

        return super().record(with_kernels)


def stepping(model: Any, cache: Any) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    def step(tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        output = model(
            tokens, position_ids=places, past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    return step


def test_one_captured_step_serves_all_that_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    spies = decode_kernels(monkeypatch)
    monkeypatch.setattr(dispatch, "on_gpu", lambda tensor: False)
    # A page is packed at 64 tokens, in the middle of the steps that are replayed
    model, steps, prompt = gemma(**SIZES).to(DEVICE), 6, 61
    tokens = random_tokens(1, prompt + steps).to(DEVICE)
    eager, cache = (RotorQuantCache(model, **OPTIONS | {"max_tokens": 69}) for _ in range(2))
    for each in (eager, cache):
        monkeypatch.setattr(each._finite_check, "deferred_on", ("cpu", "cuda"))
        read(model, each, tokens[:, :prompt])
    monkeypatch.setattr(dispatch, "on_gpu", lambda tensor: True)
    recorder = KernelTapeRecorder(list(spies.values()))
    graph = StepGraph(
        stepping(model, cache), cache, CudaRecorder() if DEVICE.type == "cuda" else recorder
    )
    for place in range(prompt, prompt + steps):
        one = tokens[:, place : place + 1]
        assert torch.equal(graph(one), read(model, eager, one)), place
    assert cache.get_seq_length() == eager.get_seq_length() == prompt + steps
    assert cache.packed_tokens == eager.packed_tokens > prompt - 8 - 24
    if DEVICE.type == "cpu":
        (tape,) = recorder.tapes
        assert not tape.names & WAITS
    mark = cache.mark()
    assert torch.equal(read(model, cache, one), read(model, eager, one))
    cache.rewind(mark)
    with pytest.raises(Exception, match="exceed max_tokens"):
        for _ in range(3):
            graph(one)
    assert cache.get_seq_length() == 69


def _filled(tokens: torch.Tensor, **changes: Any) -> tuple[Any, RotorQuantCache, RotorQuantCache]:
    """A model and two caches that hold the same."""
    torch.manual_seed(0)
    model = gemma(**SIZES | changes)
    caches = [RotorQuantCache(model, **OPTIONS) for _ in range(2)]
    for cache in caches:
        read(model, cache, tokens)
    return model, caches[0], caches[1]


def test_a_mark_holds_while_replayed_steps_overwrite_its_window(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decodes_on_device(monkeypatch)
    tokens, recorder = random_tokens(1, 70), TapeRecorder()
    model, cache, _ = _filled(tokens[:, :40])
    graph = StepGraph(stepping(model, cache), cache, recorder)
    mark, stored = cache.mark("cpu"), stored_in(cache)
    for place in range(40, 70):
        graph(tokens[:, place : place + 1])
    assert recorder.tapes
    assert recorder.rehearsals < 5
    cache.rewind(mark)
    assert all(map(torch.equal, stored_in(cache), stored))


@pytest.mark.parametrize("changes", [{}, UNTIED], ids=["tied", "shared layers"])
def test_storage_that_was_released_is_never_replayed_on(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    decodes_on_device(monkeypatch)
    tokens, recorder = random_tokens(1, 60), TapeRecorder()
    model, cache, eager = _filled(tokens[:, :40], **changes)
    graph = StepGraph(stepping(model, cache), cache, recorder)
    recorded = []
    for place in range(40, 60):
        one = tokens[:, place : place + 1]
        if place in (46, 53):  # the same shapes, most likely at the same addresses
            for each in (cache, eager):
                each.reset()
                read(model, each, tokens[:, :place])
        assert torch.equal(graph(one), read(model, eager, one)), place
        recorded.append(len(recorder.tapes))
    assert recorded[5] == 1
    assert recorded[12] == 2
    assert recorded[-1] == 3


def test_a_graph_that_fills_the_first_tokens_does_not_go_beyond(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decodes_on_device(monkeypatch)
    tokens, recorder = random_tokens(1, 60), TapeRecorder()
    model, cache, eager = _filled(tokens[:, :3])  # of 8 that stay exact for ever
    graph = StepGraph(stepping(model, cache), cache, recorder)
    for place in range(3, 60):
        one = tokens[:, place : place + 1]
        assert torch.equal(graph(one), read(model, eager, one)), place
    assert (len(recorder.tapes), recorder.rehearsals) == (2, 1)


def test_a_step_that_cannot_be_captured_leaves_the_cache_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decodes_on_device(monkeypatch)
    tokens, recorder = random_tokens(1, 50), TapeRecorder()
    model, cache, eager = _filled(tokens[:, :40])
    run, failures = stepping(model, cache), 0

    def step(given: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        nonlocal failures
        if recorder.tapes and not failures:
            failures = 1
            layer = model.model.layers[1]
            with monkeypatch.context() as patch:
                patch.setattr(layer.mlp, "forward", _no_capture)
                return run(given, places)
        return run(given, places)

    graph = StepGraph(step, cache, recorder)
    graph(tokens[:, 40:41])
    with pytest.raises(CaptureError, match="not permitted when stream is capturing"):
        graph(tokens[:, 41:42])
    assert cache.get_seq_length() == 41
    read(model, eager, tokens[:, 40:41])
    for place in range(41, 50):
        one = tokens[:, place : place + 1]
        assert torch.equal(read(model, cache, one), read(model, eager, one)), place


def _no_capture(states: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("operation not permitted when stream is capturing\nand more")


def test_steps_that_wait_are_never_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    decodes_on_device(monkeypatch)
    tokens, recorder = random_tokens(1, 50), TapeRecorder(waits=True)
    model, cache, _ = _filled(tokens[:, :40])
    graph = StepGraph(stepping(model, cache), cache, recorder)
    for place in range(40, 43):
        graph(tokens[:, place : place + 1])
    with pytest.raises(CaptureError, match="waits for the device in every step"):
        graph(tokens[:, 43:44])
    assert (cache.get_seq_length(), recorder.tapes) == (43, [])


def test_a_cache_that_no_kernel_reads_is_never_captured() -> None:
    tokens = random_tokens(1, 50)
    model, cache, _ = _filled(tokens[:, :40])  # its steps take lengths from Python
    graph = StepGraph(stepping(model, cache), cache, TapeRecorder())
    with pytest.raises(CaptureError, match="no kernel reads"):
        graph(tokens[:, 40:41])
    assert cache.get_seq_length() == 40


def test_a_cache_whose_storage_moves_is_refused() -> None:
    model = gemma(**SIZES)
    cache = RotorQuantCache(model)
    with pytest.raises(ConfigError, match="max_tokens"):
        StepGraph(stepping(model, cache), cache)
