"""Puts a checkpoint into a model, tensor by tensor, within the bytes that were planned."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from rotorquant.one_device import current_device
from rqchat.engine.planning.formats import weights_of
from rqchat.engine.sizes import gib
from rqchat.engine.weights.bitsandbytes_layers import bitsandbytes_linear
from rqchat.engine.weights.cpu_matrix import (
    CpuHead,
    CpuInt8,
    CpuLinear8,
    for_cpu,
    linear_for_cpu,
)
from rqchat.engine.weights.files.safetensors_source import WeightSource
from rqchat.engine.weights.fit import fit_rows
from rqchat.engine.weights.fit_layers import fit_layers
from rqchat.engine.weights.grid import (
    INT3,
    INT4,
    INT8_ROWS,
    Grid,
    Packed,
    matrix_of,
    part_values,
    row_parts,
)
from rqchat.engine.weights.host_embedding import HostEmbedding, lock_pages
from rqchat.engine.weights.host_tower import bring_when_used
from rqchat.engine.weights.modules import (
    DTYPES,
    GRIDS,
    PackedEmbedding,
    PackedExperts,
    PackedLinear,
    PackedMatrix,
)
from rqchat.engine.weights.transfer import ByteStream
from rqchat.errors import ModelError

__all__ = ["Recipe", "place_weights"]

_HEAD = "lm_head.weight"
_PER_LAYER = "embed_tokens_per_layer.weight"
_LAYER = re.compile(r"model\.language_model\.layers\.(\d+)\.")
_HOST = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Recipe:
    """The format that weights are loaded in, and the bytes that they may take.

    Attributes:
        name: what errors call the model.
        weights: the rung: `fp32`, `bf16`, `int8`, `int4`, `int3`, `int2`, `int8-bnb` or `nf4`.
        head_bits: 16, or 8 for an embedding and head of 8 bits.
        limit_bytes: what all weights on the device may take together.
        on_host: whether per-layer embeddings and image tower stay in main memory.
        sample: ids [rows, tokens] of a text that 3-bit weights are fitted to; None for the weights
            alone.
    """

    name: str
    weights: str
    head_bits: int
    limit_bytes: int
    on_host: bool = False
    sample: torch.Tensor | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of everything that is not quantized, and of activations."""
        return DTYPES.get(self.weights, torch.bfloat16)


class _Placing:
    """One load: the model, where weights come from, and what was placed so far."""

    def __init__(
        self, model: Any, source: WeightSource, recipe: Recipe, stream: ByteStream
    ) -> None:
        self.model, self.source, self.recipe, self.stream = model, source, recipe, stream
        self.embedding: str = model._tied_weights_keys[_HEAD]
        self.tied = bool(model.config.tie_word_embeddings)
        self.wanted = dict(model.state_dict(keep_vars=True))
        self.biases = {name for name in self.wanted if name.endswith(".bias")}
        self.linears = {name for name in self.wanted if self._is_quantized(name)}
        self.experts = {name for name in self.wanted if self._is_packed_expert(name)}
        self.tables = {name for name in self.wanted if self._is_packed_table(name)}
        self.hosted = {name for name in self.wanted if recipe.on_host and _is_for_host(name)}
        self.placed_bytes = 0
        # A tied head gets the embedding's weights at the end, even if the checkpoint has it again
        if self.tied:
            del self.wanted[_HEAD]

    def _is_quantized(self, name: str) -> bool:
        """A linear layer of the decoder, but no router: it picks experts by small differences."""
        if self.recipe.weights in DTYPES or ".language_model." not in name or ".router." in name:
            return False
        module, leaf = self._owner(name)
        return leaf == "weight" and isinstance(module, nn.Linear)

    def _is_packed_expert(self, name: str) -> bool:
        """The experts of a mixture, three-dimensional parameters, on the grids of our own."""
        return ".experts." in name and self.recipe.weights in GRIDS

    def _is_packed_table(self, name: str) -> bool:
        """The head, or a table of embeddings, where those are to have 8 bits."""
        is_table = name == _HEAD or isinstance(self._owner(name)[0], nn.Embedding)
        in_text = name == _HEAD or ".language_model." in name
        return self.recipe.head_bits == 8 and is_table and in_text

    def _owner(self, name: str) -> tuple[nn.Module, str]:
        path, _, leaf = name.rpartition(".")
        return self.model.get_submodule(path), leaf

    def names(self) -> list[str]:
        """The tensors to read, in the source's order, but biases before the layers that take them.

        Raises:
            ModelError: the checkpoint lacks a tensor, or one has another shape.
        """
        there = [name for name in self.source.names() if name in self.wanted]
        missing = sorted(self.wanted.keys() - set(there))
        if missing:
            raise ModelError(
                f"{self.recipe.name} is not whole: {len(missing)} tensors are missing, such as"
                f" {missing[0]}; download it again"
            )
        for name in there:
            found, shape = self.source.shape(name), tuple(self.wanted[name].shape)
            if found != shape:
                raise ModelError(
                    f"{self.recipe.name} does not fit its config.json: {name} is {found}, not"
                    f" {shape}; download it again"
                )
        # A packed layer takes over the bias of the module that it replaces.
        return sorted(there, key=lambda name: name not in self.biases)

    def bytes_of(self, name: str) -> int:
        """Bytes that the tensor will take on the device."""
        shape = self.wanted[name].shape
        rows, columns = matrix_of(shape)
        if name in self.linears | self.experts:
            weights = weights_of(self.recipe.weights)
            kept = weights.on_cpu if self.stream.device.type == "cpu" else weights
            kept = kept.of_experts if name in self.experts else kept
            matrices = shape[0] if name in self.experts else 1
            return int(matrices * kept.matrix_bytes(rows // matrices, columns))
        if name in self.tables:
            return INT8_ROWS.nbytes(rows, columns)
        return int(self.wanted[name].numel()) * self.recipe.dtype.itemsize

    def check_memory(self, name: str, need_bytes: int, left_bytes: int | None) -> None:
        """Checks that one more tensor fits the device; `need_bytes` is what all weights take.

        Raises:
            ModelError: another program took what was free.
        """
        if name not in self.hosted and left_bytes is not None and self.bytes_of(name) > left_bytes:
            raise ModelError(
                f"loading {self.recipe.name} stopped: {gib(need_bytes - self.placed_bytes)} of"
                f" weights are still to come and the device has {gib(left_bytes)} left, less than"
                " when it was planned; close other programs that use it, or take fewer bits with"
                " --weights"
            )

    def place(self, name: str) -> None:
        """Reads one tensor and gives it to its module."""
        module, leaf = self._owner(name)
        if name in self.hosted:
            self._place_on_host(name, module, leaf)
            return
        if name in self.linears:
            self._replace(name, self._linear(name, module))
        elif name in self.experts:
            self._pack_experts(name, module, leaf)
        elif name in self.tables:
            self._pack_table(name, module)
        elif leaf in module._parameters:
            setattr(module, leaf, nn.Parameter(self._dense(name), False))
        else:
            setattr(module, leaf, self._dense(name))
        self.placed_bytes += self.bytes_of(name)

    def _place_on_host(self, name: str, module: Any, leaf: str) -> None:
        """Reads one tensor that no step needs whole."""
        if not name.endswith(_PER_LAYER):
            # Not copied where it can be read out of its file
            with ByteStream(_HOST) as stream:
                tensor = self._dense(name, stream)
            is_parameter = leaf in module._parameters
            setattr(module, leaf, nn.Parameter(tensor, False) if is_parameter else tensor)
            return
        shape, dtype, packs = self.source.shape(name), self.recipe.dtype, name in self.tables
        table = self._packed(name, INT8_ROWS, _HOST) if packs else torch.empty(shape, dtype=dtype)
        if isinstance(table, torch.Tensor):
            for part in row_parts(*matrix_of(shape), part_values(self.stream.device)):
                table[part.start : part.stop] = self.source.rows(name, part, self.stream)
        embedding = HostEmbedding(table, module.embed_scale, dtype)
        if self.stream.device.type == "cuda":
            with current_device(self.stream.device):  # or the driver would start on the first card
                for tensor in embedding.tensors:
                    lock_pages(tensor, self.recipe.name)
        self._replace(name, embedding)

    def _linear(self, name: str, module: Any) -> nn.Module:
        grid = GRIDS.get(self.recipe.weights)
        if grid:
            return PackedLinear(linear_for_cpu(self._packed(name, grid)), module.bias)
        return bitsandbytes_linear(self._dense(name), module.bias, self.recipe.weights)

    def in_layers(self, names: Iterable[str]) -> dict[int, list[str]]:
        """Those names that are fitted to what a sample brings to them, by their layers."""
        found: dict[int, list[str]] = {}
        for name in names if self.recipe.sample is not None else ():
            match = _LAYER.match(name)
            if match and name in self.linears | self.experts:
                found.setdefault(int(match[1]), []).append(name)
        return found

    def fit_layers(
        self,
        layers: Mapping[int, Sequence[str]],
        check: Callable[[str], None],
        note: Callable[[Iterable[str]], None],
    ) -> None:
        """Places the tensors `in_layers`; each is checked before, and each layer noted after."""

        def begin(index: int) -> dict[str, nn.Module]:
            for name in layers.get(index, ()):
                check(name)
            return self._open_layer(layers.get(index, ()))

        def finish(index: int, moments: Callable[[str, int], torch.Tensor]) -> None:
            self._close_layer(layers.get(index, ()), moments)
            note(layers.get(index, ()))

        if layers and self.recipe.sample is not None:
            ids = self.recipe.sample.to(self.stream.device)
            fit_layers(self.model.model.language_model, ids, begin, finish)

    def _open_layer(self, names: Iterable[str]) -> dict[str, nn.Module]:
        """Gives linears their own weights; returns the modules of all names, none of them twice."""
        modules: dict[str, nn.Module] = {}
        for name in names:
            module, leaf = self._owner(name)
            if name in self.linears:
                setattr(module, leaf, nn.Parameter(self._dense(name), False))
            # Both matrices of experts are one module's, and what comes to it is the first one's
            if name in self.linears or leaf == "gate_up_proj":
                modules[name] = module
        return modules

    def _close_layer(
        self, names: Iterable[str], moments: Callable[[str, int], torch.Tensor]
    ) -> None:
        """Replaces the weights of an open layer by fitted ones."""
        for name in names:
            module, leaf = self._owner(name)
            rows, columns = matrix_of(self.wanted[name].shape)
            if name in self.experts:
                known = leaf == "gate_up_proj"
                found = moments(name, INT3.group_of(columns)) if known else None
                self._pack_experts(name, module, leaf, found)
            else:
                linear = cast("nn.Linear", module)
                weight = linear.weight.data
                packed = fit_rows(
                    lambda part, weight=weight: weight[part.start : part.stop],
                    *(rows, columns, INT3, weight.device),
                    moments=moments(name, INT3.group_of(columns)),
                )
                self._replace(name, PackedLinear(linear_for_cpu(packed), linear.bias))
            self.placed_bytes += self.bytes_of(name)

    def _packed(
        self,
        name: str,
        grid: Grid,
        keep_on: torch.device | None = None,
        moments: torch.Tensor | None = None,
    ) -> Packed:
        """The matrix on `grid`: as it is stored, or fitted to it a part at a time."""
        if grid == INT4 and self.source.is_packed(name):
            # On a CPU the codes get another order, so the file's own would be there twice
            keep = self.stream.device.type != "cpu"
            return self.source.packed(name, self.stream, keep=keep)
        rows, columns = matrix_of(self.source.shape(name))
        return fit_rows(
            lambda part: self.source.rows(name, part, self.stream),
            rows,
            columns,
            grid,
            self.stream.device,
            keep_on,
            moments,
        )

    def _dense(self, name: str, stream: ByteStream | None = None) -> torch.Tensor:
        """The tensor in the recipe's dtype: as it is stored, or converted a part at a time."""
        dtype, shape, stream = self.recipe.dtype, self.source.shape(name), stream or self.stream
        rows, columns = matrix_of(shape)
        if self.source.dtype(name) == dtype:
            return self.source.rows(name, range(rows), stream).view(shape)
        values = torch.empty(rows, columns, dtype=dtype, device=stream.device)
        for part in row_parts(rows, columns, part_values(stream.device)):
            values[part.start : part.stop] = self.source.rows(name, part, stream)
        return values.view(shape)

    def _pack_experts(
        self, name: str, module: Any, leaf: str, moments: torch.Tensor | None = None
    ) -> None:
        """One of the two tensors of a layer's experts; the first one replaces the module."""
        if not isinstance(module, PackedExperts):
            module = PackedExperts(module.num_experts, module.act_fn)
            self._replace(name, module)
        packed = self._packed(name, GRIDS[self.recipe.weights], moments=moments)
        setattr(module, leaf, PackedMatrix(for_cpu(packed, module.num_experts)).eval())

    def _pack_table(self, name: str, module: Any) -> None:
        packed = for_cpu(self._packed(name, INT8_ROWS))
        if name == _HEAD:
            self._put_head(packed)
        else:
            self._replace(name, PackedEmbedding(packed, module.embed_scale, self.recipe.dtype))

    def _put_head(self, table: Packed | CpuInt8) -> None:
        copy = CpuLinear8.of(table) if isinstance(table, CpuInt8) else None
        if isinstance(table, CpuInt8) and copy is not None:
            table = CpuHead(table.codes, table.scale, copy)
            self.placed_bytes += copy.nbytes
        self._replace(_HEAD, PackedLinear(table))

    def _replace(self, name: str, module: nn.Module) -> None:
        path, _, _ = name.rpartition(".")
        # A new module is in training mode, whatever the model around it is in
        self.model.set_submodule(path, module.eval().requires_grad_(False))

    def bring_towers(self) -> None:
        """Lets what lies in main memory, embeddings apart, come to the device when it runs."""
        parts = self.model.model._modules
        for name in [name for name in parts if name != "language_model"]:
            if parts[name] is not None:
                bring_when_used(parts[name], self.stream.device)
            # Last: transformers takes the device of a model's first parameter for the model's
            parts[name] = parts.pop(name)

    def tie(self) -> None:
        """Gives the head the embedding's weights."""
        embedding, _ = self._owner(self.embedding)
        if isinstance(embedding, PackedEmbedding):
            self._put_head(embedding.packed)
        else:
            self.model.lm_head.weight = embedding.weight


def place_weights(
    model: Any,
    source: WeightSource,
    recipe: Recipe,
    stream: ByteStream,
    on_progress: Callable[[int, int], None],
    free_bytes: Callable[[], int | None],
) -> int:
    """Fills `model`, whose parameters are on the meta device; returns the bytes on the device.

    Args:
        model: from `build_skeleton`.
        source: where tensors come from.
        recipe: what becomes of them.
        stream: reads bytes onto the device.
        on_progress: called with bytes read and bytes to read.
        free_bytes: what the device has left, or None where nobody knows.

    Raises:
        ModelError: the checkpoint is not whole, or needs more than planned or than is left.
    """
    placing = _Placing(model, source, recipe, stream)
    names = placing.names()
    need = sum(placing.bytes_of(name) for name in names if name not in placing.hosted)
    if need > recipe.limit_bytes:
        raise ModelError(
            f"{recipe.name} needs {gib(need)} for its weights, {gib(need - recipe.limit_bytes)}"
            " more than was planned; the files are not those of its config.json: download them"
            " again, or take fewer bits with --weights"
        )
    done, total = 0, sum(source.nbytes(name) for name in names)
    layers = placing.in_layers(names)
    later = {name for layer in layers.values() for name in layer}

    def note(placed: Iterable[str]) -> None:
        nonlocal done
        done += sum(source.nbytes(name) for name in placed)
        on_progress(done, total)

    note(())
    for name in names:
        if name not in later:
            # Before every tensor: another program may take memory while this one loads
            placing.check_memory(name, need, free_bytes())
            placing.place(name)
            note((name,))
    placing.fit_layers(layers, lambda name: placing.check_memory(name, need, free_bytes()), note)
    if placing.tied:
        placing.tie()
    if recipe.on_host:
        placing.bring_towers()
    return placing.placed_bytes


def _is_for_host(name: str) -> bool:
    """Whether no step needs the tensor whole: per-layer embeddings, and what sees pictures."""
    return name.endswith(_PER_LAYER) or (".language_model." not in name and name != _HEAD)
