"""Temporary tensors of the largest step: a chunk through attention or MLP, or a picture. No torch.

Counted from the code that makes them, by the largest moment of each phase.
`tests/engine/planning/test_workspace.py` compares it with the tensors of the GPU's own path, which
it counts without a GPU, and `python -m rqchat.bench memory` with what a model takes.
"""

from __future__ import annotations

from dataclasses import dataclass

from rqchat.engine.planning.formats import Weights
from rqchat.engine.planning.shape import ModelShape

__all__ = ["Workspace"]

# The tower pools 3 x 3 patches into a soft token.
_PATCHES_PER_SOFT_TOKEN, _PIXELS = 9, 3 * 16**2  # of a patch, in float32
# What rotorquant holds of a long history at once: decoded keys and values for a kernel, scores and
# their rotary part in float32 in its reference (`attend/prompt_chunk.py`,
# `ops/attend`)
_HISTORY_TOKENS = 8192
_TURNED = 4  # a head's dimensions over those that a position turns (proportional RoPE)
_SPACE_ROWS = 1024  # of queries or sums that change their space at a time
_SCORES, _TILE_TOKENS = 2**23, 4096
_LOGITS = 3  # rows in float32
# What torch gives cuBLAS and cuBLASLt on Hopper, each; elsewhere less (CublasHandlePool.cpp)
_PRODUCT_BYTES = 2 * 2**25
# A captured step: its tensors, cuBLAS's workspace, and the nodes of the graph; assumed. It has
# a pool of its own, so what the prompt's step leaves free is of no use to it
_CAPTURE_BYTES = 2**26
_SCRATCH_VALUES = 57_802_752  # of a packed matrix, unpacked for a chunk (`kernels/multiply.py`)
_CPU_UNPACKED_VALUES, _CPU_UNPACKED_BYTES = 2**19, 11  # codes and values while they are unpacked


@dataclass(frozen=True, slots=True)
class Workspace:
    """A step that reads `chunk_tokens` on top of a cache.

    Attributes:
        shape: the model.
        is_gpu: whether kernels run, or their references in torch.
        weights: the format of the linears.
        kv_bits: of packed tokens.
        chunk_tokens: tokens of the step.
        exact_tokens: what the cache keeps exact before them.
        packed_tokens: what it has packed at most.
        image_tokens: soft-token budget of a picture.
        on_host: whether the image tower comes to the device a tensor at a time.
        kernels: whether a GPU has the shared memory for attention kernels.
    """

    shape: ModelShape
    is_gpu: bool
    weights: Weights
    kv_bits: int
    chunk_tokens: int
    exact_tokens: int
    packed_tokens: int
    image_tokens: int
    on_host: bool = False
    kernels: bool = True

    @property
    def total(self) -> int:
        """Bytes of the largest phase, logits, what products take, and a captured step."""
        logits = _LOGITS * 4 * self.shape.vocabulary
        return self.largest_bytes + logits + self.product_bytes + self.capture_bytes

    @property
    def largest_bytes(self) -> int:
        """Bytes of the largest phase."""
        phases = self.attention_bytes, self.mlp_bytes, self.expert_bytes, self.input_bytes
        return max(*phases, self.picture_bytes)

    @property
    def capture_bytes(self) -> int:
        """Bytes of a decode step as a graph; 0 on a CPU, where none is captured."""
        return _CAPTURE_BYTES if self.is_gpu else 0

    @property
    def product_bytes(self) -> int:
        """Bytes that cuBLAS keeps for itself; 0 on a CPU."""
        return _PRODUCT_BYTES if self.is_gpu else 0

    @property
    def attention_bytes(self) -> int:
        """A chunk in a global layer.

        In the model's dtype the stream (three times the hidden size, once more and twice the
        per-layer inputs where there are any), queries before and after their norms, keys and
        values before and after theirs, cosines and sines, and K and V of all exact tokens.
        """
        shape, size, kv = self.shape, self.weights.rest_bytes, self.shape.global_kv
        apart = shape.per_layer_width
        row = (4 if apart else 3) * shape.hidden + 2 * apart + 2 * self._width
        row += (3 if kv.tied else 4) * self._values + self._angles
        exact = 2 * (self.chunk_tokens + self.exact_tokens) * self._values
        exact += self._kept
        return (self.chunk_tokens * row + exact) * size + self._history_bytes()

    @property
    def mlp_bytes(self) -> int:
        """A chunk in an MLP: the stream, and gate, up and product, or two and what is unpacked.

        On a CPU the latter multiplies float32, which is one and twice its size.
        """
        shape, size, tokens = self.shape, self.weights.rest_bytes, self.chunk_tokens
        apart = shape.per_layer_width
        row = (7 if apart else 6) * shape.hidden + 2 * apart + 2 * self._values + self._angles
        unpacked = 0 if self.weights.bits >= 16 else self._unpacked_bytes()
        inner = tokens * shape.largest_matrix // shape.hidden * size
        return (tokens * row + self._kept) * size + max(
            3 * inner, (2 if self.is_gpu else 3) * inner + unpacked
        )

    @property
    def expert_bytes(self) -> int:
        """A chunk at a mixture's experts.

        Packed: gate, up and their product, then that and the sums (`PackedExperts`). In 16 bits
        transformers sorts the tokens, and has two copies of the sums in float32.
        """
        shape, size = self.shape, self.weights.rest_bytes
        if not shape.experts:
            return 0
        inner = shape.experts[1].columns
        row = (2 * size + 2 * 4) * shape.hidden
        if self.weights.of_experts.bits < 16:
            row = max(3 * inner, inner + shape.hidden) * size
        return self.chunk_tokens * (6 * shape.hidden * size + shape.top_experts * row)

    @property
    def input_bytes(self) -> int:
        """Per-layer inputs of a chunk (E2B, E4B): looked up and projected, and its norm."""
        shape, size = self.shape, self.weights.rest_bytes
        apart = shape.per_layer_width
        return self.chunk_tokens * (apart * (2 * size + 8) + 2 * shape.hidden * size)

    @property
    def picture_bytes(self) -> int:
        """A picture in the tower: in the MLP, or in attention, with the mask of all pairs."""
        shape, size = self.shape, self.weights.rest_bytes
        patches = self.image_tokens * _PATCHES_PER_SOFT_TOKEN if shape.vision else 0
        mlp = (3 * shape.vision_intermediate + 5 * shape.vision_hidden) * size + patches
        attention = 8 * shape.vision_hidden * size + patches * (size + 1)
        coming = shape.vision_largest * size if self.on_host else 0
        return patches * (max(mlp, attention) + _PIXELS * 4) + coming

    @property
    def _width(self) -> int:
        """Values of a token's queries."""
        shape = self.shape
        return shape.query_heads * max(shape.global_kv.head_dim, shape.sliding_kv.head_dim)

    @property
    def _values(self) -> int:
        """Values of a token's keys in a global layer."""
        return self.shape.global_kv.heads * self.shape.global_kv.head_dim

    @property
    def _angles(self) -> int:
        """Cosines and sines of a token, for both kinds of layers."""
        return 2 * (self.shape.global_kv.head_dim + self.shape.sliding_kv.head_dim)

    @property
    def _kept(self) -> int:
        """K and V of the latest sliding layer, for layers that borrow them.

        transformers 5.17 keeps them in every model, 5.23 where there are such layers (E2B, E4B). On
        a CPU, whose plan has room for a whole process, they count there alone.
        """
        kv = self.shape.sliding_kv
        if not self.is_gpu and not self.shape.per_layer_width:
            return 0
        return 2 * (self.chunk_tokens + self.shape.window) * kv.heads * kv.head_dim

    def _history_bytes(self) -> int:
        """Queries for packed tokens, sums over them, and what is unpacked of them at a time."""
        if self.is_gpu and self.kernels:
            return self._kernel_history_bytes()
        return self._reference_history_bytes()

    def _kernel_history_bytes(self) -> int:
        """Keys and values of a piece in the model's dtype.

        Below 16 bits the queries in the space of the rows, the sums in float32, and a piece, where
        tied with its cosines and sines, or some sums on their way out of that space. At 16 bits the
        sums; tied keys are made in float32.
        """
        size, tied = self.weights.rest_bytes, self.shape.global_kv.tied
        tokens = min(_HISTORY_TOKENS, self.packed_tokens)
        piece, angles = tokens * self._values, tokens * self.shape.global_kv.head_dim // _TURNED
        queries = self.chunk_tokens * self._width
        if self.kv_bits < 16:
            leaving = min(queries, _SPACE_ROWS * self._values) * 4 * 2
            unpacked = (2 * piece + (angles if tied else 0)) * size
            return queries * (size + 4) + max(leaving, unpacked)
        return queries * 4 + (piece * (size + 4) if tied else 0)

    def _reference_history_bytes(self) -> int:
        """Queries and sums in float32, tiles of unpacked rows, scores and their rotary part."""
        tied, tokens = self.shape.global_kv.tied, self.chunk_tokens
        tile = min(_TILE_TOKENS, self.packed_tokens)
        queries = tokens * self._width * (22 if tied else 20)
        rows = tile * self._values * (6 if tied else 8)
        return queries + rows + 4 * (2 if tied else 1) * self._scores(tile)

    def _scores(self, keys: int) -> int:
        return min(_SCORES, self.chunk_tokens * self.shape.query_heads * keys)

    def _unpacked_bytes(self) -> int:
        """A part of the largest matrix in the model's dtype; on a CPU its codes, too.

        bitsandbytes takes the whole of it.
        """
        largest = self.shape.largest_matrix
        if self.weights.bitsandbytes:
            return largest * self.weights.rest_bytes
        if self.is_gpu:
            return min(largest, _SCRATCH_VALUES) * self.weights.rest_bytes
        return min(largest, _CPU_UNPACKED_VALUES) * _CPU_UNPACKED_BYTES
