"""A tape that stands for a CUDA graph, where there is no GPU to capture on.

It holds every operation of a step with its tensors, and playing it repeats them on the same memory,
as a graph does. Whatever the step took from Python stays as it was. What recording has written is
taken back, for a capture runs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from rotorquant.layers import finite_check
from rotorquant.ops import decode
from rotorquant.ops.append import reference as append_reference
from rotorquant.ops.decode import reference

__all__ = ["WAITS", "Tape", "TapeRecorder", "decodes_on_device"]

# What makes the host wait for the device, or moves a list of Python's there
WAITS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::lift_fresh", "aten::item"}


class Tape(TorchDispatchMode):
    """Records operations and kernel launches, and repeats them on the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.played: list[Callable[[], None]] = []
        self.names: set[str] = set()
        self._before: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for written in _written(func, args, kwargs):
            self._before.append((written, written.clone()))
        result = func(*args, **kwargs)
        self.names.add(func.name().split(".")[0])
        self.launch(lambda: func(*args, **kwargs), result)
        return result

    def launch(self, again: Callable[[], Any], result: Any) -> None:
        """Put on the tape what has led to `result`."""

        def play() -> None:
            for old, new in zip(tree_leaves(result), tree_leaves(again()), strict=True):
                # An empty one has meanwhile been given a size, by what fills it
                if isinstance(old, torch.Tensor) and old.shape == new.shape:
                    old.copy_(new)

        self.played.append(play)

    @torch.no_grad()
    def take_back(self) -> None:
        """Memory is as it was before the recording."""
        for tensor, before in reversed(self._before):
            tensor.copy_(before)
        self._before.clear()

    @torch.no_grad()
    def __call__(self) -> None:
        for each in self.played:
            each()


class TapeRecorder:
    """A `Recorder` of tapes.

    Attributes:
        tapes: recorded so far.
        rehearsals: steps that ran as they are.
        waits: what `rehearse` finds.
    """

    def __init__(self, *, waits: bool = False) -> None:
        self.tapes: list[Tape] = []
        self.rehearsals, self.waits = 0, waits

    def rehearse(self, step: Callable[[], None]) -> bool:
        self.rehearsals += 1
        step()
        return not self.waits

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        tape = Tape()
        self.tapes.append(tape)
        try:
            with tape, self._capturing(tape):
                step()
        finally:
            tape.take_back()
        return tape

    @contextmanager
    def _capturing(self, tape: Tape) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(finite_check, "_capturing", lambda: True)
            kernel = decode._kernel
            if isinstance(kernel, _DecodeOnDevice):
                patch.setattr(kernel, "tape", tape)
            yield


class _DecodeOnDevice:
    """The decode op as a device runs it: one launch, which finds lengths when it runs."""

    def __init__(self) -> None:
        self.tape: Tape | None = None

    def decode(self, *arguments: Any) -> reference.Decoded:
        def launch() -> reference.Decoded:
            *given, dtype = arguments
            with _disable_current_modes():
                found = reference.decode(*given)
            return found if found.far is not None else found._replace(near=found.near.to(dtype))

        decoded = launch()
        if self.tape is not None:
            self.tape.launch(launch, decoded)
        return decoded


def decodes_on_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode steps run as on a GPU, by the op's reference in the place of its kernel."""
    monkeypatch.setattr(decode, "_kernel", _DecodeOnDevice())
    monkeypatch.setattr(
        decode,
        "dispatch",
        SimpleNamespace(on_gpu=lambda tensor: True, has_shared=lambda tensor, shared_bytes: True),
    )
    monkeypatch.setattr(decode, "HEAD_DIMS", (16, 32, 64, 128))
    monkeypatch.setattr(finite_check.FiniteCheck, "deferred_on", ("cpu", "cuda"))
    monkeypatch.setattr(append_reference, "_is_read_at_once", lambda count: False)


def _written(func: Any, args: Any, kwargs: Any) -> Iterator[torch.Tensor]:
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = args[place] if place < len(args) else kwargs.get(argument.name)
            yield from (leaf for leaf in tree_leaves(given) if isinstance(leaf, torch.Tensor))
