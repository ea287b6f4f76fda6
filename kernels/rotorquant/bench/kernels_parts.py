"""The parts of a pass that no way to store changes, each beside the formula that it has to meet.

A prompt's attention over plain keys, history that is decoded for it, and the small steps of a
layer, in the sizes of Gemma 4 31B.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from rotorquant.codec.codebook import lloyd_max
from rotorquant.ops.attend import Rows
from rotorquant.ops.chunk import Rules, chunk_output
from rotorquant.ops.chunk import reference as chunk_reference
from rotorquant.ops.dequantize import decode_table
from rotorquant.ops.gate import gelu_gate
from rotorquant.ops.gate import reference as gate_reference
from rotorquant.ops.heads import Stream, norm_heads
from rotorquant.ops.heads import reference as heads_reference
from rotorquant.ops.norm import Norm, norm_add
from rotorquant.ops.norm import reference as norm_reference
from rotorquant.ops.quantize import make_codebook, quantize
from rotorquant.ops.rebuild import Twist, rebuild
from rotorquant.ops.rebuild import reference as rebuild_reference

__all__ = ["Part", "alike", "chunk_part", "parts", "rebuild_part"]

_HIDDEN, _INNER = 5376, 21504
_EPS = 1e-6
_SEED = 0
# Of the largest value: bfloat16 results of float32 sums, or of products of bfloat16 weights.
_TOLERANCE = 2e-2


@dataclass(frozen=True, slots=True)
class Part:
    """Something to time, and what it has to give; other fields as of `kernels_ops.Trial`."""

    op: str
    way: str
    tokens: int
    nbytes: int
    step: Callable[[], object]
    wanted: Callable[[], object]
    flops: int = 0


def parts(tokens: int, queries: int, device: torch.device) -> Iterator[Part]:
    """All of them, over `tokens` keys, and for one and for `queries` new tokens."""
    yield chunk_part(tokens, queries, device)
    yield chunk_part(tokens, queries, device, sliding=True)
    for bits in (4, 8, 3):
        yield rebuild_part(tokens, bits, device)
    for new in (1, queries):
        yield from _small(new, device)


def alike(own: object, wanted: object) -> bool:
    """Whether tensors, or tuples of them, are the same within `_TOLERANCE` of the largest value."""
    if isinstance(own, torch.Tensor) and isinstance(wanted, torch.Tensor):
        if not own.dtype.is_floating_point:
            # Codes of values next to a bound may fall to either side.
            return float((own != wanted).float().mean()) < 1e-3
        error = (own.float() - wanted.float()).abs().max() / wanted.float().abs().max()
        return bool(error < _TOLERANCE)
    if isinstance(own, (list, tuple)) and isinstance(wanted, (list, tuple)):
        return all(alike(a, b) for a, b in zip(own, wanted, strict=True))
    return own is None and wanted is None


def chunk_part(tokens: int, queries: int, device: torch.device, sliding: bool = False) -> Part:
    """A chunk of a prompt over plain keys, the last of which are its own."""
    heads, group, head_dim, window = (16, 2, 256, 1024) if sliding else (4, 8, 512, None)
    tokens = min(tokens, queries + window) if window else tokens
    normal = _drawn(device)
    query = normal(1, queries, heads * group, head_dim).transpose(1, 2)
    key, value = (normal(1, tokens, heads, head_dim).transpose(1, 2) for _ in range(2))
    rules = Rules(tokens - queries, window)
    given = query, key, value, head_dim**-0.5, rules, None
    seen = sum(min(tokens - queries + t + 1, window or tokens) for t in range(queries))
    # 2 bytes for each value of queries, outputs, keys and values.
    nbytes = 2 * (2 * query.numel() + 2 * key.numel())
    return Part(
        "chunk",
        "sliding bf16" if sliding else "global bf16",
        tokens,
        nbytes,
        partial(chunk_output, *given),
        partial(chunk_reference.chunk_output, *given),
        4 * heads * group * head_dim * seen,
    )


def rebuild_part(tokens: int, bits: int, device: torch.device) -> Part:
    """Packed rows of a tied layer to plain keys and values."""
    head_dim, heads, pairs = 512, 4, 64
    normal, book = _drawn(device), make_codebook(lloyd_max(bits), device)
    rows = Rows(*quantize(normal(1, heads, tokens, head_dim), book))
    places = torch.arange(2 * pairs, device=device)
    still = torch.ones(head_dim, dtype=torch.bool, device=device)
    still[places] = False
    angles = normal(1, tokens, pairs).float()
    twist = Twist(
        places[:pairs],
        places[pairs:],
        still,
        normal(heads, 4, pairs).float(),
        normal(heads, 2, pairs).float(),
        angles.cos().bfloat16(),
        angles.sin().bfloat16(),
    )
    given = rows, decode_table(book.centroids, bits), twist, torch.bfloat16
    read = sum(field.nbytes for field in rows if field is not None)
    return Part(
        "rebuild",
        f"{bits} bits",
        tokens,
        read + 2 * 2 * heads * tokens * head_dim,
        partial(rebuild, *given),
        partial(rebuild_reference.rebuild, *given),
    )


def _small(new: int, device: torch.device) -> Iterator[Part]:
    """The small steps of a global layer for `new` tokens."""
    normal = _drawn(device)
    rows, residual = normal(1, new, _HIDDEN), normal(1, new, _HIDDEN)
    by, factor = Norm(normal(_HIDDEN), _EPS), torch.full((1,), 0.5, device=device)
    given = rows, by, residual, factor, by
    yield Part(
        "norm",
        "sum, factor, norm",
        new,
        # Rows, residual, sum and its norm, 2 bytes for each value.
        2 * 4 * rows.numel(),
        partial(norm_add, *given),
        partial(norm_reference.norm_add, *given),
    )
    gate, up = normal(1, new, _INNER), normal(1, new, _INNER)
    yield Part(
        "gate",
        "gelu",
        new,
        2 * 3 * gate.numel(),
        partial(gelu_gate, gate, up),
        partial(gate_reference.gelu_gate, gate, up),
    )
    weight = normal(512)
    raw = normal(1, new, 32, 512), normal(1, new, 4, 512)
    streams = [Stream(raw[0], weight, True), Stream(raw[1], weight, True)]
    streams.append(Stream(raw[1], None, False))
    angles = normal(1, new, 256).float().repeat(1, 1, 2)
    cos, sin = angles.cos().bfloat16(), angles.sin().bfloat16()
    yield Part(
        "heads",
        "q, k, v",
        new,
        2 * 2 * sum(stream.rows.numel() for stream in streams),
        partial(norm_heads, streams, cos, sin, _EPS),
        lambda: [heads_reference.norm_heads(stream, cos, sin, _EPS) for stream in streams],
    )


def _drawn(device: torch.device) -> Callable[..., torch.Tensor]:
    """Draws bfloat16 tensors, the same ones every time."""
    draw = torch.Generator(device).manual_seed(_SEED)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, device=device).to(torch.bfloat16)

    return normal
