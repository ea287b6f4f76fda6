"""What a cache occupies, in plain arithmetic: no torch, so that a plan can be made without it.

One sequence (batch 1) throughout. `value_bytes` is the size of one value in the model's dtype: 2
for bfloat16. A cache made with `max_tokens` has exactly `cache_bytes` of them; one without grows
its packed storage by a quarter at a time, in steps of 1,024 tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from rotorquant.ops.planes import planes_of

__all__ = [
    "LEARNING_TOKENS",
    "POSITION_BYTES",
    "SCALE_BYTES",
    "GlobalLayout",
    "SlidingLayout",
    "cache_bytes",
    "head_vector_bytes",
]

SCALE_BYTES = 2  # one float16 per packed head vector
POSITION_BYTES = 4  # one int32 per token, for all tied layers together
# What a prompt keeps exact until it is learned from: later rows resemble many more than few
LEARNING_TOKENS = 1024


def head_vector_bytes(head_dim: int, bits: int, value_bytes: int = 2) -> int:
    """Bytes of one packed head vector, its scale included; 16 bits keep it as it is."""
    if bits == 16:
        return head_dim * value_bytes
    planes = planes_of(bits)
    return planes.primary_bytes(head_dim) + planes.extra_bytes(head_dim) + SCALE_BYTES


@dataclass(frozen=True, slots=True)
class GlobalLayout:
    """One layer that sees the whole sequence.

    Attributes:
        heads: KV heads.
        head_dim: values per head.
        tied: V alone is stored (`attention_k_eq_v`).
        bits: of the packed tokens.
        value_bytes: of an exact value.
        sink_tokens, recent_tokens, page_tokens: see `RotorQuantConfig`.
    """

    heads: int
    head_dim: int
    tied: bool = False
    bits: int = 4
    value_bytes: int = 2
    sink_tokens: int = 64
    recent_tokens: int = 512
    page_tokens: int = 64

    @property
    def vectors(self) -> int:
        """Head vectors stored per token."""
        return self.heads * (1 if self.tied else 2)

    @property
    def packed_token_bytes(self) -> int:
        """Bytes of a packed token."""
        return self.vectors * head_vector_bytes(self.head_dim, self.bits, self.value_bytes)

    @property
    def exact_token_bytes(self) -> int:
        """Bytes of an exact token."""
        return self.vectors * self.head_dim * self.value_bytes

    @property
    def exact_bytes(self) -> int:
        """Bytes of the exact tokens: sink, recent, and a page that waits to be packed."""
        tokens = self.sink_tokens + self.recent_tokens + self.page_tokens
        return tokens * self.exact_token_bytes

    @property
    def calibration_bytes(self) -> int:
        """Bytes of what a layer knows of its rows: per vector a mean and three maps, float32."""
        return self.vectors * (3 * self.head_dim + 1) * self.head_dim * 4

    def total_bytes(self, max_tokens: int) -> int:
        """Bytes of the layer for sequences of up to `max_tokens`, without a calibration."""
        # The sink and the latest tokens are never packed, however long the sequence.
        packed = max(0, max_tokens - self.sink_tokens - self.recent_tokens)
        return packed * self.packed_token_bytes + self.exact_bytes

    def chunk_bytes(self, chunk_tokens: int) -> int:
        """Bytes more while a prompt is read in chunks of `chunk_tokens`, which stay exact."""
        return chunk_tokens * self.exact_token_bytes


@dataclass(frozen=True, slots=True)
class SlidingLayout:
    """One sliding-window layer: a ring of exactly `window` tokens.

    Attributes:
        window: tokens that a query sees, itself included.
        heads: KV heads.
        head_dim: values per head.
        bits: 16 for the model's dtype, 8 for int8 with a scale per vector.
        value_bytes: of an exact value.
    """

    window: int
    heads: int
    head_dim: int
    bits: int = 16
    value_bytes: int = 2

    @property
    def total_bytes(self) -> int:
        """Bytes of the ring."""
        exact = self.head_dim * self.value_bytes
        vector = exact if self.bits == 16 else self.head_dim + SCALE_BYTES
        return self.window * 2 * self.heads * vector


def cache_bytes(
    global_layer: GlobalLayout,
    global_layers: int,
    sliding_layer: SlidingLayout | None,
    sliding_layers: int,
    max_tokens: int,
) -> int:
    """Bytes of a whole cache made with `max_tokens`, once the prompt has been read."""
    total = global_layers * global_layer.total_bytes(max_tokens)
    if sliding_layer is not None:
        total += sliding_layers * sliding_layer.total_bytes
    return total + (max_tokens * POSITION_BYTES if global_layer.tied else 0)
