"""Bytes of one way to fill a device: weights, caches, workspace, reserve. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from rotorquant.layout import POSITION_BYTES, GlobalLayout, SlidingLayout
from rqchat.engine.shape import ModelShape

__all__ = [
    "RECENT_TOKENS",
    "SINK_TOKENS",
    "Budget",
    "MemoryBytes",
    "Weights",
    "weights_of",
]

SINK_TOKENS = 64
RECENT_TOKENS = 512
_PATCHES_PER_SOFT_TOKEN = 9
_GPU_CONTEXT_BYTES = 512 * 2**20  # what a CUDA context takes once kernels are loaded
_CPU_PROCESS_BYTES = 768 * 2**20  # interpreter, torch and transformers, and what they never free
_SLACK_SHARE = 0.02  # blocks that torch's allocator keeps but cannot hand out
_TILE_TOKENS = 512  # keys that prefill attention scores at once


@dataclass(frozen=True, slots=True)
class Weights:
    """A storage format of the decoder's linear layers; all other weights keep `rest_bytes` each.

    Attributes:
        name: one of `settings.WEIGHTS`, or `fp32` on a CPU.
        bits: nominal bits of a weight.
        stored_bits: real bits of a weight, scales included.
        row_bytes: bytes kept per output row.
        rest_bytes: bytes of a value that is not quantized, activations and exact KV included.
        error: expected |w - w'|^2 / |w|^2.
    """

    name: str
    bits: int
    stored_bits: float
    row_bytes: int
    rest_bytes: int
    error: float


_FORMATS = (
    Weights("fp32", 32, 32.0, 0, 4, 0.0),
    Weights("bf16", 16, 16.0, 0, 2, 0.0),
    # absmax per row with an fp32 scale, as bitsandbytes keeps it
    Weights("int8", 8, 8.0, 4, 2, 1e-4),
    # groups of 32 with a 16-bit scale: 4 + 16/32
    Weights("int4", 4, 4.5, 0, 2, 9.4e-3),
    # groups of 64 with an 8-bit scale, whose own scale is fp32 per 256: 4 + 8/64 + 32/(64 * 256)
    Weights("nf4", 4, 4.0 + 8 / 64 + 32 / (64 * 256), 0, 2, 1.0e-2),
    # groups of 64 with a 16-bit scale and zero point: 2 + 32/64
    Weights("int2", 2, 2.5, 0, 2, 0.1175),
)


@dataclass(frozen=True, slots=True)
class MemoryBytes:
    """Where the bytes go.

    Attributes:
        weights: all parameters, image tower included.
        kv_global: packed pages, sinks and exact window of the global layers.
        kv_sliding: rings of the sliding layers.
        workspace: the largest moment of a prefill step or of the image tower.
        reserve: the device's own context, allocator slack, and what is left free on purpose.
    """

    weights: int
    kv_global: int
    kv_sliding: int
    workspace: int
    reserve: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.kv_global + self.kv_sliding + self.workspace + self.reserve

    def as_json(self) -> dict[str, int]:
        """The object that `rqchat plan --json` prints."""
        return {
            "weights": self.weights,
            "kv_global": self.kv_global,
            "kv_sliding": self.kv_sliding,
            "workspace": self.workspace,
            "reserve": self.reserve,
            "total": self.total,
        }


def weights_of(name: str) -> Weights:
    """The format called `name`."""
    return next(weights for weights in _FORMATS if weights.name == name)


@dataclass(frozen=True, slots=True)
class Budget:
    """What a model needs on a device, apart from the choices of the plan.

    Attributes:
        shape: the model.
        device_bytes: all memory of the device.
        is_gpu: whether that memory is the device's own.
        chunk_tokens: tokens that a prefill step reads at most.
        image_tokens: soft-token budget of a picture.
    """

    shape: ModelShape
    device_bytes: int
    is_gpu: bool
    chunk_tokens: int
    image_tokens: int

    def of(
        self, weights: Weights, kv_bits: int, sliding_bits: int, context_tokens: int
    ) -> MemoryBytes:
        """Bytes with that many tokens in the cache."""
        exact_chunk, kv_global = self._global_bytes(weights, kv_bits, context_tokens)
        reserve = _CPU_PROCESS_BYTES
        if self.is_gpu:
            reserve = _GPU_CONTEXT_BYTES + int(_SLACK_SHARE * self.device_bytes)
        return MemoryBytes(
            weights=self._weight_bytes(weights),
            kv_global=kv_global,
            kv_sliding=self._sliding_bytes(weights, sliding_bits),
            workspace=exact_chunk + self._step_bytes(weights),
            reserve=reserve,
        )

    def _weight_bytes(self, weights: Weights) -> int:
        """The decoder's linears in their format, everything else unquantized."""
        shape = self.shape
        packed = int(shape.linears * weights.stored_bits / 8)
        packed += shape.linear_rows * weights.row_bytes
        return packed + (shape.parameters - shape.linears) * weights.rest_bytes

    def _global_bytes(self, weights: Weights, kv_bits: int, context_tokens: int) -> tuple[int, int]:
        """Bytes of a chunk that is not packed yet, and of the global layers without it."""
        kv = self.shape.global_kv
        layer = GlobalLayout(
            kv.heads,
            kv.head_dim,
            kv.tied,
            kv_bits,
            weights.rest_bytes,
            SINK_TOKENS,
            RECENT_TOKENS,
        )
        chunk = kv.layers * layer.chunk_bytes(self.chunk_tokens)
        stored = kv.layers * layer.total_bytes(context_tokens)
        positions = context_tokens * POSITION_BYTES if kv.tied else 0
        return chunk, stored + positions

    def _sliding_bytes(self, weights: Weights, sliding_bits: int) -> int:
        """The rings; the copies that a session goes back to lie in the host's memory."""
        kv = self.shape.sliding_kv
        layer = SlidingLayout(
            self.shape.window, kv.heads, kv.head_dim, sliding_bits, weights.rest_bytes
        )
        return kv.layers * layer.total_bytes

    def _step_bytes(self, weights: Weights) -> int:
        """Temporary tensors of the largest step: a chunk through a layer, or a picture.

        A chunk holds the residual stream, norms and rotated copies (6 x hidden), gate, up and
        their product (3 x intermediate), q, k, v and output (4 x the query width), and for one
        tile of keys the scores and probabilities in float32. Quantized weights add the largest
        linear, which is unpacked for a chunk. A picture holds ten times the tower's width and its
        three MLP tensors for each patch, and the attention mask of all pairs.
        """
        shape, size = self.shape, weights.rest_bytes
        width = shape.query_heads * max(shape.global_kv.head_dim, shape.sliding_kv.head_dim)
        values = 6 * shape.hidden + 3 * shape.intermediate + 4 * width
        scores = 2 * 4 * self.chunk_tokens * shape.query_heads * _TILE_TOKENS
        unpacked = 0 if weights.bits >= 16 else shape.largest_linear * size
        logits = 3 * 4 * shape.vocabulary
        text = self.chunk_tokens * values * size + scores + unpacked + logits
        patches = self.image_tokens * _PATCHES_PER_SOFT_TOKEN
        tower = 10 * shape.vision_hidden + 3 * shape.vision_intermediate
        return max(text, (patches * tower + patches**2) * size if shape.vision else 0)
