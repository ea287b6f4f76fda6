"""The GPU's path without a GPU: true shapes on torch's meta device, kernels that are not launched.

Tensors there have sizes and no content, so every allocation of a step can be counted as CUDA's
allocator would, but for what cuBLAS takes. Only what depends on content cannot be rehearsed:
pictures, experts in 16 bits, and the packages behind `nf4` and `int8-bnb`.
"""

from __future__ import annotations

import importlib
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rotorquant import RotorQuantCache, fuse_layers
from rotorquant.calibration.own_frame import QuerySquares
from rotorquant.codec.codec import Frame
from rotorquant.layers import global_store
from rotorquant.layers.finite_check import FiniteCheck
from rotorquant.layers.global_layer import GlobalLayer
from rotorquant.ops import dispatch
from rqchat.engine.weights.grid import Grid, Packed, matrix_of
from rqchat.engine.weights.joined_products import JoinedProducts
from rqchat.engine.weights.kernels import multiply
from rqchat.engine.weights.modules import GRIDS, PackedExperts, PackedLinear, PackedMatrix
from rqchat.engine.weights.skeleton import build_skeleton
from tests.engine.planning.cuda_allocator import Allocator, Block

__all__ = ["CurrentDevice", "chunk_bytes", "pack_linears", "pretend_gpu"]

_OPS = (
    *("append", "attend", "chunk", "decode", "dequantize", "encode", "gate", "heads", "mix"),
    *("norm", "quantize", "rebuild"),
)
_LONG_STEP_TOKENS = 8192
_META = torch.device("meta")


class MetaMeter(TorchDispatchMode):
    """Bytes of meta storages that live, and the most so far.

    A storage lives as long as a tensor that was seen on it: unlike those of other devices, its own
    Python object does not last as long as its tensors.
    """

    def __init__(self) -> None:
        super().__init__()
        self.allocator, self.peak_bytes = Allocator(expandable=True), 0
        self._tensors: dict[int, int] = {}
        self._blocks: dict[int, Block] = {}
        self._known: dict[int, weakref.ref[torch.Tensor]] = {}

    @property
    def live_bytes(self) -> int:
        """Bytes that live now."""
        return self.allocator.allocated_bytes

    def restart(self) -> None:
        """Forgets the peaks so far, and what is kept for later tensors."""
        self.allocator.empty_cache()
        self.allocator.peak_bytes, self.peak_bytes = self.allocator.reserved_bytes, self.live_bytes

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if isinstance(leaf, torch.Tensor) and leaf.is_meta:
                self.see(leaf)
        return output

    def see(self, tensor: torch.Tensor) -> None:
        """Count its storage until the last tensor on it is gone."""
        known = self._known.get(id(tensor))
        if known is not None and known() is tensor:
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._tensors:
            self._tensors[key], self._blocks[key] = 0, self.allocator.take(size)
            self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        self._tensors[key] += 1

        def gone(reference: Any) -> None:
            self._tensors[key] -= 1
            if not self._tensors[key]:
                del self._tensors[key]
                self.allocator.give_back(self._blocks.pop(key), size)

        self._known[id(tensor)] = weakref.ref(tensor, gone)


class CurrentDevice:
    """Stands for CUDA's current device: none is, until an op makes one the current one.

    Attributes:
        name: of the device, or None.
        unguarded: kernels that were launched elsewhere than where their tensors lie.
        launched: names of all that were.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self.unguarded: set[str] = set()
        self.launched: set[str] = set()

    @contextmanager
    def become(self, device: torch.device) -> Iterator[None]:
        before, self.name = self.name, device.type
        yield
        self.name = before

    def launch(self, kernel: str) -> None:
        self.launched.add(kernel)
        if self.name != "meta":
            self.unguarded.add(kernel)


class _Unlaunched:
    """A kernel that is never run."""

    def __init__(self, name: str, launch: Callable[[str], None]) -> None:
        self._name, self._launch = name, launch

    def __getitem__(self, grid: Any) -> Any:
        return lambda *args, **kwargs: self._launch(self._name)


def pretend_gpu(monkeypatch: pytest.MonkeyPatch) -> CurrentDevice:
    """Meta tensors take the way of CUDA tensors on an H100; no kernel is launched."""
    current = CurrentDevice()
    monkeypatch.setattr(dispatch, "current_device", current.become)
    kernels = [importlib.import_module(f"rotorquant.ops.{op}.kernel") for op in _OPS]
    for op, kernel in zip(_OPS, tuple(kernels), strict=True):
        package = importlib.import_module(f"rotorquant.ops.{op}")
        monkeypatch.setattr(package, "_kernel", kernel, raising=False)
    for name, attribute in (("linear", "_kernel"), ("experts", "_expert_kernel")):
        kernels.append(importlib.import_module(f"rqchat.engine.weights.kernels.{name}"))
        monkeypatch.setattr(multiply, attribute, kernels[-1])
    for module in kernels:
        for name in vars(module).copy():
            if name.endswith("_kernel"):
                monkeypatch.setattr(
                    module, name, _Unlaunched(name, lambda kernel: current.launch(kernel))
                )
    for module in (dispatch, multiply):
        monkeypatch.setattr(module, "on_gpu", lambda tensor: tensor.is_meta)
    monkeypatch.setattr(dispatch, "capability_of", lambda tensor: (9, 0))
    monkeypatch.setattr(dispatch, "processors_of", lambda tensor: 132)
    monkeypatch.setattr(FiniteCheck, "_receive", lambda self, wait: None)
    # The meta device has no content to copy
    monkeypatch.setattr(QuerySquares, "on_host", lambda self: self)
    make: Any = vars(global_store)["make_codec"]

    def make_on_the_cpu(*arguments: Any) -> Any:
        before, (_, *after) = arguments[:4], arguments[4:]
        return _moved(make(*before, torch.device("cpu"), *after))

    monkeypatch.setattr(global_store, "make_codec", make_on_the_cpu)
    return current


def chunk_bytes(
    config: Mapping[str, Any],
    weights: str,
    kv_bits: int,
    chunk_tokens: int,
    before_tokens: int,
    *,
    calibrated: bool,
) -> tuple[int, int, int]:
    """Bytes of the caches before a prefill step, the most beside weights while it runs, and slack.

    The slack is what torch's allocator has then of a card beyond all tensors.

    Args:
        config: a model's config.json.
        weights: `bf16` or a rung of our own grids.
        kv_bits: of the cache.
        chunk_tokens: of the step, and of the first and the last before it.
        before_tokens: what was read before.
        calibrated: whether the cache has a calibration's maps.
    """
    model = build_skeleton(config, torch.bfloat16, torch.device("cpu"))
    if weights in GRIDS:
        pack_linears(model, GRIDS[weights])
    fuse_layers(model, JoinedProducts())
    meter = MetaMeter()
    cache = RotorQuantCache(model, bits=kv_bits, max_tokens=before_tokens + 2 * chunk_tokens)
    # Now, as a cache looks into the rotary's frequencies, whose content is lost
    model.to(_META)
    for tensor in (*model.parameters(), *model.buffers()):
        meter.see(tensor)
    cache._finite_check.deferred_on = ("cuda", "meta")
    for layer in cache.layers if calibrated else ():
        if isinstance(layer, GlobalLayer):
            layer._codecs = layer._codec_maker(_frames(model, layer))
    weight_bytes = meter.live_bytes

    def read(tokens: int) -> Any:
        ids = torch.zeros(1, tokens, dtype=torch.long, device=_META)
        return model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits

    with meter, torch.no_grad():
        # However long the steps between the first and the last were, the same tensors live then
        read(chunk_tokens)
        while (left := before_tokens - chunk_tokens - cache.get_seq_length()) > 0:
            read(min(left, _LONG_STEP_TOKENS))
        read(chunk_tokens)
        caches = int(cache.nbytes)
        meter.restart()
        read(chunk_tokens)
    slack = meter.allocator.peak_bytes - meter.peak_bytes
    return caches, meter.peak_bytes - weight_bytes, slack


def _frames(model: Any, layer: GlobalLayer) -> list[Frame]:
    """Maps of the sizes that a calibration's have, for every stream of the layer."""
    attention = next(a for a in model.modules() if _is_global(a))
    size = attention.head_dim
    heads = attention.k_proj.out_features // size
    frame = Frame(torch.zeros(heads, 1, size), *[torch.zeros(heads, size, size)] * 3)
    return [frame] * (1 if layer._tie is not None else 2)


def _is_global(module: Any) -> bool:
    return hasattr(module, "k_proj") and getattr(module, "is_sliding", True) is False


def pack_linears(model: Any, grid: Grid) -> None:
    for name, module in list(model.named_modules()):
        if name.endswith(".experts"):
            experts = PackedExperts(module.num_experts, module.act_fn)
            for leaf, tensor in module.named_parameters():
                setattr(experts, leaf, PackedMatrix(_packed(grid, *matrix_of(tensor.shape))))
            model.set_submodule(name, experts)
        elif isinstance(module, nn.Linear) and ".language_model." in name and "router" not in name:
            model.set_submodule(name, PackedLinear(_packed(grid, *module.weight.shape)).eval())


def _packed(grid: Grid, rows: int, columns: int) -> Packed:
    groups = columns // grid.group_of(columns)
    words = torch.empty(rows, columns // grid.fields, dtype=torch.int32, device=_META)
    scale = torch.empty(rows, groups, dtype=torch.bfloat16, device=_META)
    return Packed(grid, words, scale, torch.empty_like(scale) if grid.has_offset else None)


def _moved(codec: Any, seen: dict[int, torch.Tensor] | None = None) -> Any:
    """A codec with all its tensors on the meta device, each once."""
    seen = {} if seen is None else seen

    def move(value: Any) -> Any:
        if torch.is_tensor(value):
            return seen.setdefault(id(value), value.to(_META))
        if isinstance(value, tuple):
            kind: Any = type(value)
            moved = [move(each) for each in value]
            return kind(*moved) if hasattr(value, "_fields") else kind(moved)
        return _moved(value, seen) if type(value).__module__.startswith("rotorquant") else value

    slots = [name for kind in type(codec).__mro__ for name in getattr(kind, "__slots__", ())]
    for name in [*getattr(codec, "__dict__", {}), *slots]:
        if hasattr(codec, name):
            object.__setattr__(codec, name, move(getattr(codec, name)))
    return codec
