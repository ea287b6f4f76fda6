"""RotorQuantCache: a layer for every decoder layer, and what concerns all of them at once."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from rotorquant.attend.entry import ATTENTION_NAME, register
from rotorquant.attend.picture_blocks import add_picture_hook
from rotorquant.calibration.calibration import Calibration, choose_calibration
from rotorquant.config import Bits, RotorQuantConfig, resolve_mode
from rotorquant.exceptions import CacheStateError, ConfigError
from rotorquant.layers.base import SharedLayer
from rotorquant.layers.buffers import Meter
from rotorquant.layers.finite_check import FiniteCheck, LayerContext
from rotorquant.layers.global_layer import GlobalLayer
from rotorquant.layers.positions import PositionLog
from rotorquant.layers.sliding_layer import SlidingLayer
from rotorquant.mark import Mark
from rotorquant.model_layers import LayerShape, ModelLayers, read_model_layers
from rotorquant.snapshot import FrozenCache, Header, Snapshot, Source, read_snapshot

__all__ = ["Mark", "RotorQuantCache"]


class RotorQuantCache(Cache):
    """A key-value cache with packed global layers, for `model.generate(past_key_values=cache)`.

    The constructor sets the model's text attention to `rotorquant`; then `update` returns views
    that this attention reads in place. A model set back to `sdpa` or `eager` gets dequantized
    tensors.

    Args:
        model: a transformers decoder (Gemma 4 with or without pictures, Llama and the like).
        bits, mode, sink_tokens, recent_tokens, sliding_bits, max_tokens, page_tokens, seed, defer,
            statistics: see `RotorQuantConfig`. A mode may name its bits, as `planar3` does; else
            they are 4.
        calibration: what `calibrate` gave, or its file; `aligned` reads it.

    Raises:
        ConfigError: an option is out of range, or the calibration is of another model.
        UnsupportedModelError: the model cannot be served; the sentence says why.
    """

    def __init__(
        self,
        model: Any,
        bits: int | Bits | None = None,
        mode: str = "aligned",
        sink_tokens: int = 64,
        recent_tokens: int = 512,
        sliding_bits: int = 16,
        max_tokens: int | None = None,
        *,
        page_tokens: int = 64,
        seed: int = 42,
        defer: str = "window",
        calibration: Calibration | str | Path | None = None,
        statistics: str = "rows",
    ) -> None:
        mode, bits = resolve_mode(mode, bits)
        config = RotorQuantConfig(
            bits,
            mode,
            sink_tokens,
            recent_tokens,
            sliding_bits,
            max_tokens,
            page_tokens,
            seed,
            defer,
            statistics=statistics,
        )
        self._build(model, config, calibration)

    @classmethod
    def from_config(
        cls,
        model: Any,
        config: RotorQuantConfig,
        calibration: Calibration | str | Path | None = None,
    ) -> Self:
        """A cache from a record of options; raises as the constructor does."""
        cache = cls.__new__(cls)
        cache._build(model, config, calibration)
        return cache

    def _build(
        self,
        model: Any,
        config: RotorQuantConfig,
        calibration: Calibration | str | Path | None = None,
    ) -> None:
        """Set up the cache; every constructor ends here."""
        model_layers = read_model_layers(model)
        config, known = choose_calibration(config, calibration)
        shapes = _shapes(model_layers, config)
        self.config, self._model_config = config, model_layers.config
        self._meter, self._finite_check = Meter(), FiniteCheck()
        self._positions: PositionLog | None = None
        if model_layers.rotary is not None and any(shape.tie is not None for shape in shapes):
            self._positions = PositionLog(model_layers.rotary, config.max_tokens, self._meter)
        # Weak, so that a mark which nobody keeps any more frees its copies.
        self._marks: weakref.WeakSet[Mark] = weakref.WeakSet()
        # The model keeps this attention when the cache is gone; it serves plain tensors, too.
        register()
        model_layers.config._attn_implementation = ATTENTION_NAME
        if model_layers.image_host is not None:
            add_picture_hook(model_layers.image_host)
        Cache.__init__(self, layers=[self._make_layer(*item, known) for item in enumerate(shapes)])
        self._storing = [
            layer for layer in self.layers if isinstance(layer, (GlobalLayer, SlidingLayer))
        ]
        self._shapes = _storing_shapes(shapes)

    @classmethod
    def load(
        cls,
        path: str | Path,
        model: Any,
        *,
        source: Source | None = None,
        max_tokens: int | None = None,
    ) -> Self:
        """A cache as `save` wrote it, for the same model; equal to the bit.

        Args:
            path: of the file.
            model: as for the constructor.
            source: what the file must be of; None takes any.
            max_tokens: a new maximum; None keeps the one of the file.

        Raises:
            SnapshotError: the file is missing, cut short or corrupt, or of another model, source or
                kind of cache; the sentence says which.
        """
        snapshot = read_snapshot(Path(path), cls.__name__, source)
        return cls._from_snapshot(snapshot, model, max_tokens)

    @classmethod
    def thaw(cls, frozen: FrozenCache, model: Any, *, max_tokens: int | None = None) -> Self:
        """The cache that `freeze` was called of, for the same model; equal to the bit.

        Args:
            frozen: stays as it is.
            model: as for the constructor.
            max_tokens: a new maximum; None keeps the one it had.

        Raises:
            SnapshotError: it is of another model.
        """
        snapshot = Snapshot(Path("a frozen cache"), frozen.header, frozen.tensors)
        return cls._from_snapshot(snapshot, model, max_tokens)

    @classmethod
    def _from_snapshot(cls, snapshot: Snapshot, model: Any, max_tokens: int | None) -> Self:
        config = snapshot.header.config
        # First, because making a cache sets the model's attention.
        snapshot.check_layers(_storing_shapes(_shapes(read_model_layers(model), config)))
        if max_tokens is not None:
            config = replace(config, max_tokens=max_tokens)
        # The file brings what a calibration has led to, so that the calibration need not be there.
        cache = cls.from_config(model, replace(config, calibration=""))
        cache._set_config(config)
        for index, (layer, shape) in enumerate(zip(cache._storing, cache._shapes, strict=True)):
            layer.load(snapshot.groups(index), snapshot.header.tokens, shape.device)
        if cache._positions is not None:
            device = cache._shapes[0].device
            cache._positions.load(snapshot.positions, snapshot.header.tokens, device)
        return cache

    def save(self, path: str | Path, source: Source | None = None) -> None:
        """Write everything that the cache holds to one safetensors file; see `load`.

        The file appears whole or not at all. While it is written, host memory holds a copy.

        Args:
            path: of the file; one that is there is replaced.
            source: what the tokens and the model are, for `load` to compare.

        Raises:
            SnapshotError: it cannot be written.
            CacheStateError, NonFiniteError: a forward pass broke off, or stored NaN or infinity.
        """
        self.freeze(source, copied=False).write(path)

    def freeze(self, source: Source | None = None, *, copied: bool = True) -> FrozenCache:
        """What `save` would write now, on the host: a thread can write it while the cache goes on.

        Without `copied` it shares tensors on the CPU with the cache, which must not be used until
        they are written.

        Raises:
            CacheStateError, NonFiniteError: a forward pass broke off, or stored NaN or infinity.
        """
        self._check_sound()
        name, tokens = type(self).__name__, self.get_seq_length()
        header = Header.of(name, tokens, source, self.config, self._shapes)
        groups = [layer.tensors() for layer in self._storing]
        positions = [] if self._positions is None else self._positions.tensors()
        return FrozenCache.of(header, groups, positions, copied=copied)

    @property
    def nbytes(self) -> int:
        """Bytes that the tensors of the cache occupy, unused capacity included, marks not."""
        log = 0 if self._positions is None else self._positions.nbytes
        return log + sum(layer.nbytes for layer in self._storing)

    @property
    def peak_nbytes(self) -> int:
        """The most that `nbytes` has been; storage that grew counted twice at that moment."""
        return self._meter.peak

    @property
    def packed_tokens(self) -> int:
        """Tokens that are stored packed in global layers."""
        layers = [layer for layer in self._storing if isinstance(layer, GlobalLayer)]
        return max((layer.packed_tokens for layer in layers), default=0)

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Any, Any]:
        """Store a chunk of layer `layer_idx`, [B, kv_heads, T, D] each.

        Returns:
            Under `rotorquant` attention the layer's view, twice; else K and V of all tokens that
            the chunk can see, dequantized.

        Raises:
            NonFiniteError: the chunk holds NaN or infinity; on a GPU the next pass reports it.
            CapacityError: it exceeds `max_tokens`.
            CacheStateError: another batch size or model, unknown positions, or an earlier forward
                pass broke off half way, after which `rewind` or `reset` helps.
        """
        layer = self.layers[layer_idx]
        # Between passes all layers have the same length, so only the first one checks it.
        if layer is self._storing[0]:
            self._finite_check.begin(layer.get_seq_length())
            self._check_whole()
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)

    def shared_kv_states(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """K and V of the last layer of each kind, dequantized, for a drafter that shares them.

        Returns:
            "full_attention": [B, H, length, D] each, "sliding_attention": [B, H, N, D] each, the
            latest window - 1 tokens at most; a kind that the model lacks is absent. K has its
            rotary embedding.

        Raises:
            CacheStateError: the cache is empty.
        """
        if not self.get_seq_length():
            raise CacheStateError("an empty cache has no keys and values to share")
        last = {
            "sliding_attention" if layer.is_sliding else "full_attention": layer
            for layer in self._storing
        }
        return {kind: layer.dense() for kind, layer in last.items()}

    def repack(self, bits: int | Bits) -> None:
        """Go on with fewer bits: what is packed is packed again, page by page, and memory freed.

        One layer at a time is in memory twice, and one page in float32. Exact tokens stay exact,
        and marks stay valid: they lead to their tokens in the new widths.

        Raises:
            ConfigError: the width does not exist, or one would grow; nothing was changed.
        """
        config = replace(self.config, bits=bits)
        for tied in {shape.kind == "tied" for shape in self._shapes if shape.kind != "sliding"}:
            old, new = self.config.stream_bits(tied), config.stream_bits(tied)
            if any(wanted > current for wanted, current in zip(new, old, strict=True)):
                raise ConfigError(
                    f"repack({bits}): the cache has bits={self.config.bits}; what was lost does "
                    "not come back, so only fewer bits are possible"
                )
        self._check_sound()
        self._set_config(config)

    def reset(self) -> None:
        """Forget all tokens, give the memory back, void all marks and stop recording."""
        for layer in self._storing:
            layer.reset()
            layer.record_past = False
        self._marks.clear()
        self._finite_check.back_to(0)
        if self._positions is not None:
            self._positions.reset()

    def crop(self, tokens_to_remove: int) -> None:
        """Remove tokens from the end: -3 removes three, as in transformers.

        Raises:
            CacheStateError: the number is positive, or a sliding window would need tokens that it
                has overwritten; nothing is removed then.
        """
        tokens_to_remove = int(tokens_to_remove)  # transformers 5.17 hands over a tensor
        if tokens_to_remove > 0:
            raise CacheStateError(
                f"crop({tokens_to_remove}) has no meaning; crop(-n) removes n tokens, and "
                "crop_to(n) keeps n"
            )
        self.crop_to(max(0, self.get_seq_length() + tokens_to_remove))

    def crop_to(self, length: int) -> None:
        """Keep the first `length` tokens; raises as `crop` does."""
        if length < 0:
            raise CacheStateError(f"crop_to({length}) has no meaning; a length is 0 or more")
        # All windows are checked before any layer changes, so that a refusal changes nothing.
        for layer in self._storing:
            if isinstance(layer, SlidingLayer):
                layer.check_crop(length)
        for layer in self._storing:
            layer.crop_to(length)
        self._forget_from(length)

    def activate_past_recording(self) -> None:
        """Let every pass be undone by a crop of up to a window, as assisted decoding asks.

        Sliding windows then keep what leaves them until the next crop, and a deferred prompt is
        packed by the pass after it, whatever its length. It ends with `reset`.
        """
        for layer in self._storing:
            layer.activate_past_recording()

    def mark(self, device: torch.device | str | None = None) -> Mark:
        """Remember this place, sliding windows and exact latest tokens included.

        It costs nothing at once, and on a GPU it does not wait. As long as the mark exists, what
        later tokens overwrite of them is copied before (`Mark.nbytes`), to `device`, such as "cpu",
        or where the cache is.

        Raises:
            CacheStateError: a forward pass broke off.
            NonFiniteError: one stored NaN or infinity; on a GPU a later pass may report it instead.
        """
        self._check_whole()
        length = self.get_seq_length()
        totals = self._finite_check.mark(length)
        place = None if device is None else torch.device(device)
        states = tuple(layer.save(place) for layer in self._storing)
        mark = Mark(length, states, totals)
        self._marks.add(mark)
        return mark

    def rewind(self, mark: Mark) -> None:
        """Return to a mark, bit for bit. A mark can be used again.

        Raises:
            CacheStateError: the mark is of another cache, or the cache has meanwhile gone back to
                before it.
        """
        if mark not in self._marks:
            raise CacheStateError(
                f"the mark at {mark.length} tokens does not hold any more: it is of another cache, "
                "or this one has been reset, reordered or taken back to before it"
            )
        for layer, state in zip(self._storing, mark.states, strict=True):
            layer.restore(state)
        self._forget_from(mark.length, mark.totals)

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Beam search: row b becomes what row beam_idx[b] was."""
        self._select_batch(lambda rows: rows.index_select(0, beam_idx.to(rows.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row of the batch `repeats` times."""
        self._select_batch(lambda rows: rows.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep the rows `indices` of the batch."""
        self._select_batch(lambda rows: rows[indices.to(rows.device)])

    def flush(self) -> None:
        """Pack the pages that are due and keep what marks need, as the next step would."""
        for layer in self._storing:
            layer.flush()

    def advance(self, tokens: int) -> None:
        """Count tokens that a replayed step is about to store.

        Raises:
            NonFiniteError, CacheStateError: as `update` does.
        """
        self._finite_check.begin(self.get_seq_length())
        self._check_whole()
        for layer in self._storing:
            layer.advance(tokens)
        if self._positions is not None:
            self._positions.advance(tokens)

    def retract(self, length: int) -> None:
        """Count `length` tokens again: a captured step of one token has not run."""
        for layer in self._storing:
            layer.retract(length)
        if self._positions is not None:
            self._positions.advance(length - self._positions.length)

    @property
    def next_places(self) -> tuple[str | None, ...]:
        """The buffer that one more token goes to, per global layer; None where tokens must move."""
        if not self.get_seq_length() or any(layer.record_past for layer in self._storing):
            return (None,)  # recording moves tokens of windows in every step
        layers = [layer for layer in self._storing if isinstance(layer, GlobalLayer)]
        return tuple(layer.next_place for layer in layers)

    @property
    def reads_on_device(self) -> bool:
        """Whether every layer finds what a step reads by lengths that lie on the device."""
        return all(layer.is_initialized and layer.steps_on_device() for layer in self._storing)

    def storage(self) -> list[torch.Tensor]:
        """All tensors that a step reads or writes, and that the cache may replace by others."""
        tensors = [tensor for layer in self._storing for tensor in layer.storage()]
        return tensors if self._positions is None else tensors + self._positions.storage()

    def _select_batch(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        for layer in self._storing:
            layer.select_batch(change)
        if self._positions is not None:
            self._positions.select_batch(change)
        self._marks.clear()  # their copies have the former batch

    def _check_sound(self) -> None:
        """Raise unless all layers hold the same number of tokens, all of them finite."""
        self._finite_check.verify()
        self._check_whole()

    def _check_whole(self) -> None:
        """Raise unless all layers hold the same number of tokens."""
        lengths = {layer.get_seq_length() for layer in self._storing}
        if len(lengths) > 1:
            raise CacheStateError(
                f"a forward pass broke off, so layers hold {min(lengths)} to {max(lengths)} "
                "tokens; rewind() to a mark, crop_to() the smaller number, or reset()"
            )

    def _forget_from(
        self, length: int, totals: dict[torch.device, torch.Tensor] | None = None
    ) -> None:
        self._finite_check.back_to(length, totals)
        if self._positions is not None:
            self._positions.truncate(length)
            if length == 0:  # the next prompt may have another batch size
                self._positions.reset()
        for mark in list(self._marks):
            if mark.length > length:
                self._marks.discard(mark)

    def _set_config(self, config: RotorQuantConfig) -> None:
        for layer in self._storing:
            if isinstance(layer, GlobalLayer):
                layer.repack(config)
        self.config = config

    def _make_layer(
        self, index: int, shape: LayerShape, calibration: Calibration | None
    ) -> CacheLayerMixin:
        config = self._model_config

        # Read at every update, because the model may be set to another attention meanwhile.
        def returns_views() -> bool:
            return str(config._attn_implementation) == ATTENTION_NAME

        context = LayerContext(returns_views, self._meter, self._finite_check)
        if shape.kind == "shared":
            return SharedLayer()  # type: ignore[no-untyped-call]
        if shape.kind == "sliding" and shape.window is not None:
            return SlidingLayer(self.config, shape.window, context)
        positions = self._positions if shape.kind == "tied" else None
        frames = () if calibration is None else calibration.frames(index, shape, self.config.mode)
        return GlobalLayer(self.config, shape.tie, positions, context, frames)


def _shapes(model_layers: ModelLayers, config: RotorQuantConfig) -> list[LayerShape]:
    """How the layers are stored: with `tied=False` K is stored beside V everywhere."""
    if config.tied:
        return list(model_layers.layers)
    return [
        replace(shape, kind="split", tie=None) if shape.kind == "tied" else shape
        for shape in model_layers.layers
    ]


def _storing_shapes(shapes: list[LayerShape]) -> list[LayerShape]:
    return [shape for shape in shapes if shape.kind != "shared"]
