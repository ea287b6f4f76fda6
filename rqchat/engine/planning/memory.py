"""Bytes of one way to fill a device: weights, caches, workspace, reserve. No torch.

`docs/memory.md` has every number for Gemma 4 31B with its formula.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from rotorquant.layout import POSITION_BYTES, GlobalLayout, SlidingLayout
from rqchat.engine.planning.formats import FBGEMM_ROW_BYTES, Weights
from rqchat.engine.planning.shape import ModelShape
from rqchat.engine.planning.workspace import Workspace

__all__ = [
    "GPU_CONTEXT_BYTES",
    "LEFT_FREE_BYTES",
    "RECENT_TOKENS",
    "SINK_TOKENS",
    "Budget",
    "Economy",
    "MemoryBytes",
    "short_chunk",
]

SINK_TOKENS = 64
RECENT_TOKENS = 512
_MIB = 2**20
GPU_CONTEXT_BYTES = 512 * _MIB  # what a CUDA context takes once kernels are loaded
_CPU_PROCESS_BYTES = 768 * _MIB  # interpreter, torch and transformers, and what they never free
# bitsandbytes and what its products on a CPU never free: 463 MB at most (docs/benchmarks)
_CPU_LIBRARY_BYTES = 512 * _MIB
# What torch's allocator holds beyond its tensors, as its rules replayed give it (docs/design.md):
# a begun segment for small tensors and one for large ones, of its own and of a captured step;
# holes between a prefill step's tensors; and where segments cannot grow, what rounds up weights
_SEGMENTS_BYTES = 2 * (2 + 20) * _MIB
_HOLES_SHARE, _FIXED_SEGMENTS_SHARE = 0.5, 0.03
LEFT_FREE_BYTES = 256 * _MIB  # for a desktop that opens one more window
_CHUNK_TOKENS, _LONG_CHUNKS = 512, (2048, 1024)  # docs/design.md: what a longer prefill step brings
_HEAD_SCALE_BYTES = 2  # one 16-bit scale per row of an 8-bit table


def short_chunk(image_tokens: int) -> int:
    """Tokens that a prefill step reads where memory is short: a picture fits into one."""
    return max(_CHUNK_TOKENS, image_tokens + 2)


@dataclass(frozen=True, slots=True)
class Economy:
    """What is saved apart from weights and KV bits.

    Attributes:
        head_bits: of embedding and output head, 16 or 8.
        sliding_bits: of the sliding windows, 16 or 8.
        on_host: what no step reads whole lies in main memory: per-layer embeddings, of which a
            token gets a row, and the image tower, which is copied part by part for a picture.
    """

    head_bits: int = 16
    sliding_bits: int = 16
    on_host: bool = False


@dataclass(frozen=True, slots=True)
class MemoryBytes:
    """Where the bytes go.

    Attributes:
        weights: all parameters, image tower included, but for those on the host.
        kv_global: packed pages, sinks and exact window of the global layers.
        kv_sliding: rings of the sliding layers; the copies that a session goes back to lie in the
            host's memory.
        workspace: the largest moment of a prefill step or of the image tower.
        reserve: the device's own context, allocator slack, and what is left free on purpose.
        host: weights in main memory, which the device need not hold.
        allocator: the slack, which is a part of the reserve.
    """

    weights: int
    kv_global: int
    kv_sliding: int
    workspace: int
    reserve: int
    host: int = 0
    allocator: int = 0

    @property
    def reserved(self) -> int:
        """What torch's allocator takes of a GPU: all tensors at the largest moment, and slack."""
        return self.total - self.reserve + self.allocator

    @property
    def total(self) -> int:
        """Everything that the device has to hold."""
        return self.weights + self.kv_global + self.kv_sliding + self.workspace + self.reserve

    def as_json(self) -> dict[str, int]:
        """The object that `rqchat plan --json` prints."""
        fields = asdict(self)
        host, allocator = fields.pop("host"), fields.pop("allocator")
        held = {"allocator": allocator, "reserved": self.reserved}
        return {**fields, "total": self.total, "host": host, **held}


@dataclass(frozen=True, slots=True)
class Budget:
    """What a model needs on a device, apart from the choices of the plan.

    Attributes:
        shape: the model.
        is_gpu: whether that memory is the device's own.
        chunk_tokens: tokens that a prefill step reads at most.
        image_tokens: soft-token budget of a picture.
        expandable: whether the segments of torch's allocator can grow, as they do on CUDA.
        kernels: whether a GPU runs our attention kernels, and not their references.
    """

    shape: ModelShape
    is_gpu: bool
    chunk_tokens: int
    image_tokens: int
    expandable: bool = True
    kernels: bool = True

    def of(
        self, weights: Weights, kv_bits: int, economy: Economy, context_tokens: int
    ) -> MemoryBytes:
        """Bytes with that many tokens in the cache."""
        kv = self.shape.global_kv
        # The chunk at hand stays exact until the next one comes: it passes, as a workspace does.
        host = self.host_bytes(weights, economy.head_bits) if economy.on_host else 0
        placed = self.weight_bytes(weights, economy.head_bits) - host
        space = self.workspace(weights, kv_bits, context_tokens, on_host=economy.on_host)
        slack = self.allocator_bytes(placed, space)
        chunk = kv.layers * self._global_layout(weights, kv_bits).chunk_bytes(self.chunk_tokens)
        return MemoryBytes(
            weights=placed,
            kv_global=self._global_bytes(weights, kv_bits, context_tokens),
            kv_sliding=self._ring_bytes(weights, economy.sliding_bits),
            workspace=chunk + space.total,
            reserve=self._outside_bytes(weights) + slack,
            host=host,
            allocator=slack,
        )

    def with_longest_chunk(
        self,
        weights: Weights,
        kv_bits: int,
        economy: Economy,
        context_tokens: int,
        free_bytes: int,
    ) -> Budget:
        """This budget with the longest prefill step whose total stays within `free_bytes`.

        It is this budget itself on a CPU, and where nothing longer fits.
        """
        longer = [n for n in _LONG_CHUNKS if self.chunk_tokens < n <= context_tokens]
        for chunk_tokens in longer if self.is_gpu else ():
            budget = replace(self, chunk_tokens=chunk_tokens)
            if budget.of(weights, kv_bits, economy, context_tokens).total <= free_bytes:
                return budget
        return self

    def read_bytes(
        self, weights: Weights, kv_bits: int, economy: Economy, context_tokens: int
    ) -> int:
        """Bytes that one decode step reads with a full cache: weights, head, caches.

        Of the embedding one row is looked up; the head is a table of the vocabulary, read whole.
        """
        shape = self.shape
        head = shape.vocabulary * shape.hidden
        read = self._table_bytes(weights, head, shape.vocabulary, economy.head_bits)
        read += sum(m.read * weights.matrix_bytes(m.rows, m.columns) for m in shape.matrices)
        experts = weights.of_experts
        read += sum(m.read * experts.matrix_bytes(m.rows, m.columns) for m in shape.experts)
        read += (shape.routers + shape.norms + shape.embedding_row) * weights.rest_bytes
        kv = self._global_layout(weights, kv_bits).total_bytes(context_tokens)
        return read + shape.global_kv.layers * kv + self._ring_bytes(weights, economy.sliding_bits)

    def weight_bytes(self, weights: Weights, head_bits: int) -> int:
        """Linears and experts in their formats, embedding and head, everything else as it is.

        The audio tower is not loaded: rqchat takes no sound.
        """
        shape = self.shape
        packed = sum(m.count * weights.matrix_bytes(m.rows, m.columns) for m in shape.matrices)
        experts = weights.of_experts
        packed += sum(m.count * experts.matrix_bytes(m.rows, m.columns) for m in shape.experts)
        rows = shape.embedding_rows + (shape.vocabulary if shape.head else 0)
        tables = self._table_bytes(weights, shape.embedding + shape.head, rows, head_bits)
        if head_bits == 8 and not self.is_gpu:  # a copy in the order of its product
            tables += shape.vocabulary * (shape.hidden + FBGEMM_ROW_BYTES)
        rest = shape.routers + shape.norms + shape.vision
        return packed + tables + rest * weights.rest_bytes

    def host_bytes(self, weights: Weights, head_bits: int) -> int:
        """Bytes of `weight_bytes` that can lie in main memory."""
        return self.pinned_bytes(weights, head_bits) + self.shape.vision * weights.rest_bytes

    def pinned_bytes(self, weights: Weights, head_bits: int) -> int:
        """Those that must stay there: per-layer embeddings. A tower is read out of its file."""
        rows = self.shape.per_layer_rows
        return self._table_bytes(weights, rows * self.shape.per_layer_width, rows, head_bits)

    def allocator_bytes(self, weight_bytes: int, space: Workspace) -> int:
        """Bytes that torch's allocator keeps of a GPU and cannot hand out."""
        if not self.is_gpu:
            return 0
        fixed = 0 if self.expandable else int(_FIXED_SEGMENTS_SHARE * weight_bytes)
        return _SEGMENTS_BYTES + int(_HOLES_SHARE * space.largest_bytes) + fixed

    def _outside_bytes(self, weights: Weights) -> int:
        """Bytes that torch does not allocate: CUDA's context, and what is left free."""
        if not self.is_gpu:
            return _CPU_PROCESS_BYTES + (_CPU_LIBRARY_BYTES if weights.bitsandbytes else 0)
        return GPU_CONTEXT_BYTES + LEFT_FREE_BYTES

    def workspace(
        self, weights: Weights, kv_bits: int, context_tokens: int, *, on_host: bool = False
    ) -> Workspace:
        """Temporary tensors of a prefill step at the end of the context."""
        page = self._global_layout(weights, kv_bits).page_tokens
        exact = SINK_TOKENS + RECENT_TOKENS
        return Workspace(
            self.shape,
            self.is_gpu,
            weights,
            kv_bits,
            self.chunk_tokens,
            exact + page,
            max(0, context_tokens - exact - self.chunk_tokens),
            self.image_tokens,
            on_host,
            self.kernels,
        )

    def _table_bytes(self, weights: Weights, values: int, rows: int, head_bits: int) -> int:
        if head_bits == 16:
            return values * weights.rest_bytes
        return values + rows * _HEAD_SCALE_BYTES

    def _global_layout(self, weights: Weights, kv_bits: int) -> GlobalLayout:
        kv, size = self.shape.global_kv, weights.rest_bytes
        return GlobalLayout(
            kv.heads, kv.head_dim, kv.tied, kv_bits, size, SINK_TOKENS, RECENT_TOKENS
        )

    def _global_bytes(self, weights: Weights, kv_bits: int, context_tokens: int) -> int:
        """Bytes of the global layers without the chunk that is being read.

        A calibration is counted whether the model has one or not: it may get one.
        """
        kv, layer = self.shape.global_kv, self._global_layout(weights, kv_bits)
        stored = kv.layers * layer.total_bytes(context_tokens)
        stored += self.calibration_bytes(weights, kv_bits)
        return stored + (context_tokens * POSITION_BYTES if kv.tied else 0)

    def calibration_bytes(self, weights: Weights, kv_bits: int) -> int:
        """Bytes of a calibration's maps; 0 for 16 bits, which need none."""
        layout = self._global_layout(weights, kv_bits)
        return self.shape.global_kv.layers * layout.calibration_bytes if kv_bits < 16 else 0

    def _ring_bytes(self, weights: Weights, sliding_bits: int) -> int:
        kv, size = self.shape.sliding_kv, weights.rest_bytes
        layer = SlidingLayout(self.shape.window, kv.heads, kv.head_dim, sliding_bits, size)
        return kv.layers * layer.total_bytes
