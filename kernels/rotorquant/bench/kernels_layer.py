"""One global layer of Gemma 4 31B, filled with random tokens, and the ways to store and read it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from rotorquant.codec import Codec, PackedCodec, RawCodec
from rotorquant.ops.attend import Rows, merge
from rotorquant.reading import attend_rows
from rotorquant.rotation import make_rotation
from rotorquant.tied import TiedKey

__all__ = ["METHODS", "Layer", "Store", "Way"]

_SEED = 0


@dataclass(frozen=True, slots=True)
class Way:
    """How a layer is stored: a rotation mode and a width; one latent, or K and V apart."""

    name: str
    mode: str
    bits: int
    tied: bool = True


METHODS = (
    Way("bf16 latent", "none", 16),
    *(
        Way(f"{mode} {bits}", mode, bits)
        for mode in ("planar", "iso", "rotor")
        for bits in (8, 4, 3, 2)
    ),
    *(Way(f"turbo K+V {bits}", "haar", bits, tied=False) for bits in (4, 3, 2)),
    *(Way(f"turbo-wht K+V {bits}", "hadamard", bits, tied=False) for bits in (4, 3, 2)),
)


class _Weight(nn.Module):
    """Stands for a layer's key norm, and for the rotary embedding with its buffer."""

    def __init__(self, weight: torch.Tensor, frequencies: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.register_buffer("inv_freq", frequencies)


class Layer:
    """Shapes and random contents, [1, heads, N, head_dim] bfloat16.

    Args:
        tokens: N.
        device: where they lie.
        heads: key heads; group: query heads of each; head_dim: D; a quarter of the pairs turns.
    """

    def __init__(
        self, tokens: int, device: torch.device, heads: int = 4, group: int = 8, head_dim: int = 512
    ) -> None:
        draw = torch.Generator(device).manual_seed(_SEED)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=draw, device=device)

        self.device, self.group, self.head_dim = device, group, head_dim
        pairs = head_dim // 8
        steps = torch.arange(pairs, device=device)
        # Scores with a spread of about 3, so that attention has something to look at.
        weight = torch.full((head_dim,), 3.0 / head_dim**0.5, device=device)
        module = _Weight(weight, 1e6 ** (-2.0 * steps / head_dim))
        self.tie = TiedKey(module, module, "inv_freq", pairs)
        self.value = normal(1, heads, tokens, head_dim).to(torch.bfloat16)
        self.positions = torch.arange(tokens, device=device)[None]
        self.query = normal(1, heads, group, head_dim)

    def key(self) -> torch.Tensor:
        """K, in bfloat16."""
        return self.tie.rebuild(self.value, self.positions)

    def codec(self, way: Way) -> Codec:
        """What encodes and decodes one stream."""
        if way.bits == 16:
            return RawCodec(self.head_dim, self.device)
        pairs = self.tie.pairs if way.tied else 0
        rotation = make_rotation(way.mode, self.head_dim, _SEED, self.device, pairs)
        return PackedCodec(way.bits, rotation, self.head_dim, self.device)

    def sdpa(self, key: torch.Tensor) -> torch.Tensor:
        """Decode attention as transformers does it: the group as queries, no mask."""
        query = self.query.to(torch.bfloat16)
        return scaled_dot_product_attention(query, key, self.value, scale=1.0)


class Store:
    """The tokens of a layer, stored one way."""

    def __init__(self, layer: Layer, way: Way) -> None:
        self.layer, self.way = layer, way
        self.codec = layer.codec(way)
        self.rows = [self.codec.encode(stream) for stream in self._streams()]

    def _streams(self) -> list[torch.Tensor]:
        return [self.layer.value] if self.way.tied else [self.layer.key(), self.layer.value]

    @property
    def nbytes(self) -> int:
        """Bytes of all tokens, which every step has to read."""
        fields = [field for rows in self.rows for field in rows if field is not None]
        return sum(field.numel() * field.element_size() for field in fields)

    def encode(self) -> list[Rows]:
        """Pack all tokens once more."""
        return [self.codec.encode(stream) for stream in self._streams()]

    def attend(self, queries: int = 1) -> torch.Tensor:
        """Attention of `queries` positions, [1, heads, queries group, D] float32."""
        layer = self.layer
        query = layer.query.repeat(1, 1, queries, 1)
        codecs = [self.codec] * len(self.rows)
        tie = layer.tie if self.way.tied else None
        part = attend_rows(query, self.rows, codecs, tie, layer.positions, torch.bfloat16, None)
        return merge([part])

    def lost(self) -> float:
        """Square of the error of all decoded streams, as a share of the square of the streams."""
        pairs = zip(self._streams(), self.rows, strict=True)
        streams = [(stream.float(), self.codec.decode(rows)) for stream, rows in pairs]
        error = sum(float((one - two).square().sum()) for one, two in streams)
        return error / sum(float(one.square().sum()) for one, _ in streams)

    def expected(self) -> torch.Tensor:
        """`attend` by the formula in float64, over decoded keys and values."""
        layer = self.layer
        decoded = [self.codec.decode(rows) for rows in self.rows]
        value = decoded[-1]
        key = layer.tie.rebuild(value.float(), layer.positions) if self.way.tied else decoded[0]
        weights = (layer.query.double() @ key.double().mT).softmax(-1)
        return (weights @ value.double()).float()
