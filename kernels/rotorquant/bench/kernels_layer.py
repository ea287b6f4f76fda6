"""A global or sliding layer of Gemma 4 31B, filled with random tokens, and the ways to store it.

The layers are those of the cache, so what is timed is what the cache does. The exceptions stand for
others: bfloat16 through torch's own attention, and TurboQuant as published, whose packed keys and
values are decoded and rotated back one by one before they are attended to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from rotorquant.attend.tied_key import TiedKey
from rotorquant.attend.views import Handle, Queries
from rotorquant.calibration.statistics import StreamStatistics, make_frame, offset_alone
from rotorquant.codec.codec import Frame
from rotorquant.config import RotorQuantConfig
from rotorquant.layers.buffers import Meter
from rotorquant.layers.finite_check import FiniteCheck, LayerContext
from rotorquant.layers.global_layer import GlobalLayer
from rotorquant.layers.positions import PositionLog
from rotorquant.layers.sliding_layer import SlidingLayer
from rotorquant.ops.attend import Rows

__all__ = ["GLOBAL_WAYS", "SLIDING_WAYS", "WINDOW", "Layer", "Store", "Way", "plain_frame"]

WINDOW = 1024
_SEED = 0
_CHUNK = 4096


@dataclass(frozen=True, slots=True)
class Way:
    """How a layer is stored and read; `sdpa` and `published` do without the cache's attention.

    `framed`: with a calibration's map, which costs the same work whatever it contains.
    """

    name: str
    mode: str
    bits: int
    tied: bool = True
    sdpa: bool = False
    published: bool = False
    framed: bool = False


GLOBAL_WAYS = (
    Way("bf16 K+V, SDPA", "aligned", 16, tied=False, sdpa=True),
    Way("bf16 K+V", "aligned", 16, tied=False),
    Way("bf16 latent", "aligned", 16),
    *(
        Way(f"{mode} {bits}", mode, bits)
        for mode in ("aligned", "planar", "iso", "rotor")
        for bits in (8, 4, 3, 2)
    ),
    *(Way(f"calibrated {b}", "aligned", b, framed=True) for b in (4, 3)),
    *(Way(f"turbo, published {b}", "haar", b, tied=False, published=True) for b in (4, 3, 2)),
    *(Way(f"turbo, best {b}", "hadamard", b, tied=False) for b in (4, 3, 2)),
)
SLIDING_WAYS = (
    Way("bf16 K+V, SDPA", "aligned", 16, tied=False, sdpa=True),
    Way("bf16 ring", "aligned", 16, tied=False),
    Way("int8 ring", "aligned", 8, tied=False),
)


class _Weight(nn.Module):
    """Stands for a layer's key norm, and for the rotary embedding with its buffer."""

    def __init__(self, weight: torch.Tensor, frequencies: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.register_buffer("inv_freq", frequencies)

    def forward(self, vectors: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """Return the vectors; the hook of a position log reads the positions."""
        return vectors


class Layer:
    """Shapes and random contents, bfloat16, as the projections leave them.

    Args:
        tokens: N.
        device: where they lie.
        sliding: a window of `WINDOW` tokens and 16 key heads of 256, 2 query heads to each; else 4
            key heads of 512, 8 query heads to each, and a quarter of the rotary pairs turns.
        queries: new tokens, the last ones.
    """

    def __init__(
        self, tokens: int, device: torch.device, sliding: bool = False, queries: int = 1
    ) -> None:
        heads, group, head_dim = (16, 2, 256) if sliding else (4, 8, 512)
        draw = torch.Generator(device).manual_seed(_SEED)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=draw, device=device).to(torch.bfloat16)

        self.device, self.tokens, self.sliding, self.queries = device, tokens, sliding, queries
        self.head_dim = head_dim
        # A quarter of the head_dim / 2 pairs, as in Gemma 4's global layers.
        pairs = head_dim // 8
        # Scores with a spread of about 3, so that attention has something to look at.
        weight = torch.full((head_dim,), 3.0 / head_dim**0.5, device=device)
        steps = torch.arange(pairs, device=device)
        self.rotary = _Weight(weight, 1e6 ** (-2.0 * steps / head_dim))
        self.tie = TiedKey(self.rotary, self.rotary, "inv_freq", pairs)
        self.value = normal(1, tokens, heads, head_dim).transpose(1, 2)
        self.positions = torch.arange(tokens, device=device)[None]
        self.query = normal(1, heads * group, queries, head_dim)

    @property
    def grouped(self) -> torch.Tensor:
        """The queries of each key head, [1, heads, group queries, D] float32."""
        return self.query.float().reshape(1, self.value.shape[1], -1, self.head_dim)

    def key(self, low: int = 0, high: int | None = None) -> torch.Tensor:
        """K of some tokens, of all by default, in bfloat16."""
        tokens = slice(low, high)
        return self.tie.rebuild(self.value[:, :, tokens].contiguous(), self.positions[:, tokens])


class Store:
    """The tokens of a layer, stored one way, and a step of its last tokens on top of them."""

    def __init__(self, layer: Layer, way: Way) -> None:
        self.layer, self.way = layer, way
        # The cache's own defaults, or a share of short sequences, so that some tokens get packed.
        exact = min(64, layer.tokens // 8), min(512, layer.tokens // 4)
        self.config = RotorQuantConfig(
            way.bits if not layer.sliding else 16,
            way.mode,
            *exact,
            sliding_bits=way.bits if layer.sliding else 16,
            max_tokens=layer.tokens,
            page_tokens=min(64, max(1, layer.tokens // 8)),
            tied=way.tied,
            scale="norm" if way.published else "matched",
            statistics="none",
        )
        context = LayerContext(lambda: True, Meter(), FiniteCheck())
        log = None
        self.cached: GlobalLayer | SlidingLayer
        if layer.sliding:
            self.cached = SlidingLayer(self.config, WINDOW, context)
        else:
            log = PositionLog(layer.rotary, layer.tokens, Meter()) if way.tied else None
            tie = layer.tie if way.tied else None
            heads, pairs = layer.value.shape[1], layer.tie.pairs
            frame = plain_frame(heads, layer.head_dim, pairs, layer.device) if way.framed else None
            frames = [] if frame is None else [frame]
            self.cached = GlobalLayer(self.config, tie, log, context, frames)
        self._view = self._fill(log is not None)
        self._step = self._chosen()
        self._pages: list[Rows] = []

    def _fill(self, logged: bool) -> Handle:
        """Store the chunks of a prompt, then the step's tokens; return the view of the step."""
        layer, last = self.layer, self.layer.tokens - self.layer.queries
        bounds = [*range(0, last, _CHUNK), last, layer.tokens]
        for low, high in zip(bounds[:-1], bounds[1:], strict=True):
            # The log takes positions from a call of the rotary embedding, as in a model's pass.
            if logged:
                layer.rotary(layer.value, position_ids=layer.positions[:, low:high])
            value = layer.value[:, :, low:high]
            view, _ = self.cached.update(layer.key(low, high), value)
        assert isinstance(view, Handle)
        return view

    def attend(self) -> torch.Tensor:
        """Attention of the last tokens over all: [1, queries, heads, D]."""
        return self._step()

    def _chosen(self) -> Callable[[], torch.Tensor]:
        """The attention that goes with this way to store."""
        layer, way = self.layer, self.way
        if not (way.sdpa or way.published):
            return lambda: self._view.view.attend(Queries(layer.query, 1.0))
        key, value = (stream.contiguous() for stream in self._plain())
        if way.published and isinstance(self.cached, GlobalLayer):
            return lambda: self._decoded(key, value)
        return lambda: self._sdpa(key, value)

    def _sdpa(self, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """As transformers does it for one token: the group as queries, no mask."""
        query = self.layer.query.unflatten(1, (key.shape[1], -1)).flatten(2, 3)
        done = scaled_dot_product_attention(query, key, value, scale=1.0)
        return done.reshape(self.layer.query.shape).transpose(1, 2)

    def _decoded(self, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Decode the packed tokens into their places in K and V, then attend."""
        assert isinstance(self.cached, GlobalLayer)
        packed = self.cached.store.packed
        first, last = self.cached.store.span
        for low in range(first, last, _CHUNK):
            high = min(low + _CHUNK, last)
            rows = packed.streams(low - first, high - first)
            for codec, row, stream in zip(packed.codecs, rows, (key, value), strict=True):
                stream[:, :, low:high] = codec.decode(row)
        return self._sdpa(key, value)

    def _plain(self) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V that the step sees: decoded; of a window the originals."""
        layer = self.layer
        if not layer.sliding:
            return self.cached.dense()
        low = layer.tokens - WINDOW
        return layer.key(low, layer.tokens), layer.value[:, :, low:]

    @property
    def nbytes(self) -> int:
        """Bytes of all tokens that the step has to read."""
        groups = self.cached.tensors()
        if not self.layer.sliding:
            return sum(row.nbytes for name in ("sink", "packed", "tail") for row in groups[name])
        return sum(row.nbytes for row in groups["ring"])

    def encode(self) -> list[Rows]:
        """Pack all tokens once more, from the projection's layout into pages of their own."""
        assert isinstance(self.cached, GlobalLayer)
        codecs, value = self.cached.store.packed.codecs, self.layer.value
        if not self._pages:
            # Allocated once, at the first call, which no timing counts.
            self._pages = [codec.encode(value) for codec in codecs]
        for codec, pages in zip(codecs, self._pages, strict=True):
            codec.encode(value, pages)
        return self._pages

    @property
    def encoded_nbytes(self) -> int:
        """Bytes that `encode` reads and writes."""
        assert isinstance(self.cached, GlobalLayer)
        store, value = self.cached.store, self.layer.value
        rows = sum(row.nbytes for row in store.packed.rows()) // max(1, store.packed.length)
        streams = len(store.packed.codecs)
        return value.numel() * value.element_size() * streams + rows * value.shape[2]

    def lost(self) -> float:
        """Square of the error of the packed tokens, as a share of their square."""
        assert isinstance(self.cached, GlobalLayer)
        low, high = self.cached.store.span
        value = self.layer.value[:, :, low:high].float()
        wanted = [value] if self.way.tied else [self.layer.key(low, high).float(), value]
        found = self.cached.store.packed.decode(torch.float32)
        error = sum(float((a - b).square().sum()) for a, b in zip(wanted, found, strict=True))
        return error / sum(float(stream.square().sum()) for stream in wanted)

    def expected(self) -> torch.Tensor:
        """`attend` of the last query by the formula in float64, over what is stored."""
        key, value = (stream.double() for stream in self._plain())
        last = self.layer.query[:, :, -1:]
        query = last.double().unflatten(1, (key.shape[1], -1)).flatten(2, 3)
        done: torch.Tensor = (query @ key.mT).softmax(-1) @ value
        return done.reshape(last.shape).transpose(1, 2).float()


@cache
def plain_frame(heads: int, size: int, pairs: int, device: torch.device) -> Frame:
    """A calibration's map that contains nothing, and costs as much work as any other."""
    nothing = StreamStatistics(torch.zeros(heads, size), *torch.zeros(2, heads, size, size))
    frame = make_frame(offset_alone(nothing), pairs)
    return Frame(*(field.to(device) for field in frame))
