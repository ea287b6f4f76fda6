"""Calibration: what keys, values and queries are like, from text that a model has read.

    from rotorquant import RotorQuantCache, calibrate
    calibrate(model, token_ids, "gemma.rq")                   # once, some thousand tokens
    cache = RotorQuantCache(model, calibration="gemma.rq")

A safetensors file holds float32 statistics per stored stream of a global layer: `mean` [heads, D],
`covariance` and `weight` [heads, D, D].
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from rotorquant.attend.entry import attention, padding_mask
from rotorquant.calibration.statistics import (
    StreamStatistics,
    make_frame,
    output_pulls,
    tied_weight,
)
from rotorquant.codec.codec import Frame
from rotorquant.config import CALIBRATED_MODES, RotorQuantConfig
from rotorquant.exceptions import ConfigError
from rotorquant.model_layers import LayerShape, ModelLayers, read_model_layers

__all__ = ["Calibration", "calibrate", "choose_calibration"]

_FORMAT = "2"
_LISTENER = "rotorquant_calibration"
_QUERIES = 128  # looked at per chunk, from its second half
_SKIPPED_TOKENS = 4  # the first of a text gather attention and are stored exactly


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Statistics of the global layers of one model.

    Attributes:
        model: name of the model, as its config has it.
        tokens: how many were read.
        layers: by index of the layer, one record per stored stream.
    """

    model: str
    tokens: int
    layers: dict[int, tuple[StreamStatistics, ...]]

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that tell calibrations apart."""
        state = hashlib.sha256()
        for name, tensor in sorted(self._tensors().items()):
            state.update(name.encode())
            state.update(tensor.numpy().tobytes())
        return state.hexdigest()[:16]

    def frames(self, index: int, shape: LayerShape, mode: str) -> tuple[Frame, ...]:
        """The frames of a layer's streams for a mode; empty where nothing is known of the layer.

        Raises:
            ConfigError: the layer has other streams or heads of another size.
        """
        streams = self.layers.get(index, ())
        if not streams:
            return ()
        wanted = 1 if shape.tie is not None else 2
        sizes = {stream.mean.shape[-1] for stream in streams}
        if len(streams) != wanted or sizes != {shape.head_dim}:
            raise ConfigError(
                f"the calibration of {self.model} has {len(streams)} streams of {sizes} values in "
                f"layer {index}; this cache stores {wanted} of {shape.head_dim}"
            )
        pairs = 0 if shape.tie is None or mode != "aligned" else shape.tie.pairs
        return tuple(make_frame(stream, pairs) for stream in streams)

    def save(self, path: str | Path) -> None:
        """Write the statistics to a safetensors file."""
        header = {"format": _FORMAT, "model": self.model, "tokens": str(self.tokens)}
        save_file(
            self._tensors(), str(path), metadata={"rotorquant.calibration": json.dumps(header)}
        )

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """A calibration from a file that `save` wrote.

        Raises:
            ConfigError: there is no such file, or it is no calibration.
        """
        if not Path(path).is_file():
            raise ConfigError(f"calibration {path} does not exist; `calibrate` makes one")
        try:
            with safe_open(str(path), framework="pt") as file:
                header = json.loads((file.metadata() or {}).get("rotorquant.calibration", "{}"))
                names = file.keys()
                tensors = {name: file.get_tensor(name) for name in names}
        except (OSError, SafetensorError, ValueError) as error:
            raise ConfigError(f"{path} cannot be read as a calibration: {error}") from error
        if header.get("format") != _FORMAT:
            raise ConfigError(f"{path} is no calibration of format {_FORMAT}; see calibrate()")
        try:
            return cls(str(header["model"]), int(header["tokens"]), _layers(tensors))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{path} is a damaged calibration ({type(error).__name__}: {error}); make it again"
                " with calibrate()"
            ) from error

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {
            f"{layer}.{index}.{name}": tensor.detach().cpu().contiguous()
            for layer, streams in self.layers.items()
            for index, stream in enumerate(streams)
            for name, tensor in stream._asdict().items()
        }


def _layers(tensors: dict[str, torch.Tensor]) -> dict[int, tuple[StreamStatistics, ...]]:
    """Tensors called `LAYER.STREAM.FIELD`, by layer."""
    found: dict[int, dict[int, dict[str, torch.Tensor]]] = {}
    for name, tensor in tensors.items():
        layer, stream, field = name.split(".")
        found.setdefault(int(layer), {}).setdefault(int(stream), {})[field] = tensor
    for streams in found.values():
        for each in streams.values():
            size = each["mean"].shape[-1]
            shapes = {each[field].shape[1:] for field in ("covariance", "weight")}
            if each["mean"].ndim != 2 or shapes != {(size, size)}:
                raise ValueError(f"a mean of {size} values beside matrices of {shapes}")
    return {
        layer: tuple(StreamStatistics(**streams[i]) for i in sorted(streams))
        for layer, streams in found.items()
    }


def calibrate(
    model: Any,
    text_ids: torch.Tensor,
    path: str | Path | None = None,
    *,
    chunk_tokens: int = 2048,
) -> Calibration:
    """Read a text and gather the statistics of its keys, values and queries.

    Args:
        model: a transformers decoder.
        text_ids: [N] or [1, N] token ids, best some thousand of the kind that will be read.
        path: where to write the file, if anywhere.
        chunk_tokens: read at once; each chunk begins at position 0 with the first token of all.

    Raises:
        ConfigError: the text is shorter than 64 tokens.
        UnsupportedModelError: the model cannot be served.
    """
    ids = text_ids.reshape(-1)
    if ids.numel() < 64:
        raise ConfigError(f"{ids.numel()} tokens tell too little; calibrate() needs at least 64")
    model_layers = read_model_layers(model)
    listener = _Listener(model_layers)
    name = model_layers.config._attn_implementation
    AttentionInterface.register(_LISTENER, listener)
    AttentionMaskInterface.register(_LISTENER, padding_mask)
    model_layers.config._attn_implementation = _LISTENER
    try:
        with torch.no_grad():
            # Every chunk begins with the text's first token, as models expect (`<bos>`).
            for chunk in ids[1:].split(chunk_tokens - 1):
                model(torch.cat((ids[:1], chunk)).unsqueeze(0), use_cache=False)
    finally:
        model_layers.config._attn_implementation = name
        # There is no public way to unregister a name; this frees the listener and its sums.
        AttentionInterface.register(_LISTENER, attention)
    layers = {index: sums.statistics() for index, sums in sorted(listener.layers.items())}
    calibration = Calibration(_model_name(model), ids.numel(), layers)
    if path is not None:
        calibration.save(path)
    return calibration


def choose_calibration(
    config: RotorQuantConfig, given: Calibration | str | Path | None
) -> tuple[RotorQuantConfig, Calibration | None]:
    """The calibration that a cache uses, and its options with the digest of that calibration.

    Raises:
        ConfigError: a calibration is given to a mode that has no use for it, or the options name
            another one.
    """
    if given is not None and config.mode not in CALIBRATED_MODES:
        raise ConfigError(
            f"mode {config.mode!r} takes no calibration; {' and '.join(CALIBRATED_MODES)} do"
        )
    known = given if isinstance(given, Calibration) or given is None else Calibration.load(given)
    digest = "" if known is None else known.digest
    if config.calibration not in ("", digest):
        raise ConfigError(
            f"the cache was made with calibration {config.calibration}, and given is "
            f"{digest or 'none'}; give the same file"
        )
    return replace(config, calibration=digest), known


class _LayerSums:
    """Sums over the tokens of one layer."""

    def __init__(self, shape: LayerShape) -> None:
        self._shape = shape
        self._tokens = 0
        self._sums: list[torch.Tensor] = []
        self._pull = self._share = torch.zeros(())

    def add(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> None:
        """Take in tensors [1, heads, T, D]; float64 sums, as a mean may dwarf its spread."""
        kept = slice(min(_SKIPPED_TOKENS, key.shape[2] - 1), None)
        tokens = key.shape[2]
        streams = [value] if self._shape.tie is not None else [key, value]
        sums = []
        for stream in streams:
            rows = stream[0, :, kept].double()
            sums.append(torch.cat((rows.sum(1, keepdim=True), rows.mT @ rows), dim=1).cpu())
        query_indices = torch.arange(
            tokens // 2, tokens, -(-tokens // (2 * _QUERIES)), device=key.device
        )
        pull, share = output_pulls(
            query[0].float() * scaling, key[0].float(), value[0].float(), query_indices
        )
        old = self._sums or [torch.zeros_like(new) for new in sums]
        self._sums = [one + two for one, two in zip(old, sums, strict=True)]
        self._pull = self._pull + pull.double().cpu()
        self._share = self._share + share.double().cpu()
        self._tokens += rows.shape[1]

    def statistics(self) -> tuple[StreamStatistics, ...]:
        """Mean, covariance and weight per stream."""
        pull = (self._pull / self._share).float()
        found = []
        for sums in self._sums:
            mean, square = (sums / self._tokens).split([1, sums.shape[-1]], dim=1)
            found.append((mean[:, 0].float(), (square - mean.mT @ mean).float()))
        tie = self._shape.tie
        if tie is not None:
            ((mean, covariance),) = found
            norm = tie.weight(torch.device("cpu"))
            weight = tied_weight(pull, norm, tie.pairs)
            return (StreamStatistics(mean, covariance, weight),)
        (key_mean, key_spread), (value_mean, value_spread) = found
        # An error of V moves the output by itself, in whatever direction it points.
        evenly = torch.eye(value_mean.shape[-1]).repeat(value_mean.shape[0], 1, 1)
        return (
            StreamStatistics(key_mean, key_spread, pull),
            StreamStatistics(value_mean, value_spread, evenly),
        )


class _Listener:
    """`attention` that takes note of what the global layers see."""

    def __init__(self, model_layers: ModelLayers) -> None:
        self.layers: dict[int, _LayerSums] = {}
        self._shapes: Sequence[LayerShape] = model_layers.layers

    def __call__(
        self,
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        """Add a layer's tensors to its sums, then attend as `attention` does."""
        index = int(module.layer_idx)
        if self._shapes[index].kind in ("tied", "split"):
            sums = self.layers.setdefault(index, _LayerSums(self._shapes[index]))
            sums.add(query, key, value, query.shape[-1] ** -0.5 if scaling is None else scaling)
        return attention(module, query, key, value, attention_mask, scaling, **kwargs)


def _model_name(model: Any) -> str:
    # A hub id, or the last part of a folder: a file that is passed on tells nothing of a machine
    name = str(getattr(model.config, "_name_or_path", "") or type(model).__name__)
    return (
        name if name.count("/") == 1 and not name.startswith((".", "/", "~")) else Path(name).name
    )
