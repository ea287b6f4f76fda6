"""The formats that weights are kept in: their bytes to the byte, and what they cost. No torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = [
    "FBGEMM_ROW_BYTES",
    "HEAD_ERROR",
    "KV_DIVERGENCE",
    "KV_ERROR",
    "LEAST_WEIGHT_BITS",
    "ONNX_GROUP_BYTES",
    "SOUND_WEIGHT_BITS",
    "Weights",
    "loss_in_a_word",
    "loss_in_words",
    "weights_of",
]

SOUND_WEIGHT_BITS = 4
"""Context is given up before weights have fewer bits."""
LEAST_WEIGHT_BITS = 3
"""Weights of fewer bits answer worse than a smaller model, so nobody gets them unasked."""


# Expected |x - x'|^2 / |x|^2 of a Gaussian under Lloyd-Max (J. Max, 1960; 5 to 8 bits computed).
KV_ERROR = {16: 0.0, 8: 4.1e-5, 6: 6.4e-4, 5: 2.5e-3, 4: 9.5e-3, 3: 3.45e-2, 2: 0.1175}
# The head's own error is that of int8 weights; it is one of some hundred matrices
HEAD_ERROR = {16: 0.0, 8: 1e-6}
FBGEMM_ROW_BYTES = 12
"""Beside each row of 8-bit codes in the order of FBGEMM: scale, zero point, sum of the codes."""

ONNX_GROUP_BYTES = 12
"""Beside each group of 4-bit codes in the order of ONNX Runtime: its scale twice and a sum."""

# Mean KL divergence of the next token in nats, every token scored, with a calibration
# (docs/benchmarks/fidelity.md)
KV_DIVERGENCE = {16: 0.0, 8: 2.0e-5, 6: 3.0e-4, 5: 1.1e-3, 4: 4.7e-3, 3: 0.019, 2: 0.091}
# The largest divergence that each of these words stands for
_WORDS = (
    (0.0, "as published", "answers as published"),
    (0.01, "as 16 bits", "answers as good as with 16 bits"),
    (0.14, "almost as 16 bits", "answers almost as good as with 16 bits"),
    (0.4, "noticeably worse", "answers noticeably worse than with 16 bits"),
)
_WORST = "plain mistakes", "plain mistakes in answers"

_ABSMAX_GROUP = 256  # first-level scales of NF4 that share one second-level scale


@dataclass(frozen=True, slots=True)
class Weights:
    """A storage format of the decoder's linear layers; all other weights keep `rest_bytes` each.

    Attributes:
        name: one of `settings.WEIGHTS`, or `fp32` on a CPU.
        bits: of one code.
        stored_bits: that it takes, where those are more; else 0.
        row_bytes: kept per output row.
        group: weights along a row that share a scale; 0 for none.
        least_group: that share one where `group` does not divide a row; 0 for no such rule.
        group_bytes: kept per group, such as a 16-bit scale and zero point.
        row_step: rows are filled up to a multiple of it.
        nested: whether the groups' scales have a scale of their own.
        bitsandbytes: whether that library keeps it, which leaves a mixture's experts alone.
        rest_bytes: of a value that is not quantized, activations and exact KV included.
        error: expected |w - w'|^2 / |w|^2 of Gaussian weights.
        divergence: mean KL divergence of the next token in nats that it costs the pocket model
            (`python -m rqchat.bench loss`).
        note: what else is known of its effect on answers, with its source.
    """

    name: str
    bits: int
    rest_bytes: int = 2
    stored_bits: int = 0
    row_bytes: int = 0
    group: int = 0
    least_group: int = 0
    group_bytes: int = 0
    row_step: int = 1
    nested: bool = False
    bitsandbytes: bool = False
    error: float = 0.0
    divergence: float = 0.0
    note: str = ""

    @property
    def loss(self) -> str:
        """What it costs, in words with the figure."""
        if not self.divergence:
            return "none"
        measured = f"KL divergence {self.divergence} on the pocket model"
        return f"{measured}; {self.note}" if self.note else measured

    @property
    def on_cpu(self) -> Weights:
        """The same where a CPU multiplies; it has no product for 3 bits, which are kept as 4."""
        if self.name == "int8":
            return replace(self, row_bytes=FBGEMM_ROW_BYTES)
        if self.name not in ("int4", "int3"):
            return self
        return replace(self, stored_bits=4, group_bytes=ONNX_GROUP_BYTES)

    @property
    def of_experts(self) -> Weights:
        """The format of a mixture's experts."""
        if self.name == "int8":  # of which FBGEMM has no slices
            return weights_of("int8")
        if self.stored_bits:  # on a CPU, by torch, which takes a zero point with each scale
            return replace(self, group_bytes=4, row_step=64)
        return weights_of("bf16") if self.bitsandbytes else self

    def matrix_bytes(self, rows: int, columns: int) -> int:
        """Bytes of a linear layer with `rows` outputs and `columns` inputs."""
        rows = -(-rows // self.row_step) * self.row_step
        bits = self.stored_bits or self.bits
        size = -(-rows * columns * bits // 8) + rows * self.row_bytes
        if self.group:
            is_whole = columns % self.group == 0 or not self.least_group
            groups = -(-rows * columns // (self.group if is_whole else self.least_group))
            size += groups * self.group_bytes
            if self.nested:
                size += 4 * -(-groups // _ABSMAX_GROUP) + 4  # float32 scales and their offset
        return size


_FORMATS = (
    Weights("fp32", 32, rest_bytes=4),
    Weights("bf16", 16),
    # the largest of a row has the code 127; a 16-bit scale
    Weights("int8", 8, row_bytes=2, error=1e-4, divergence=0.0014),
    # the same with an fp32 scale, and products of 8-bit activations, by bitsandbytes
    Weights("int8-bnb", 8, row_bytes=4, bitsandbytes=True, error=1e-4, divergence=0.0024),
    # the grid of Google's quantization-aware checkpoints: groups of 32 with a 16-bit scale
    Weights(
        *("int4", 4),
        group=32,
        group_bytes=2,
        error=7.6e-3,
        divergence=0.093,
        note="Google's 4-bit checkpoints were trained for it",
    ),
    # bitsandbytes' NormalFloat: groups of 64 with an 8-bit scale that has a scale of its own
    Weights(
        *("nf4", 4),
        group=64,
        group_bytes=1,
        nested=True,
        bitsandbytes=True,
        error=1.0e-2,
        divergence=0.131,
        note="perplexity +7.4 % on 31B QAT weights (Luminia's model card on friendli.ai)",
    ),
    # groups of 128, else 64, with a 16-bit scale, fitted to what a sample of text brings to a layer
    Weights("int3", 3, group=128, least_group=64, group_bytes=2, error=0.056, divergence=0.225),
    # groups of 64 with a 16-bit scale and offset
    Weights("int2", 2, group=64, group_bytes=4, error=0.103, divergence=1.3),
)


def weights_of(name: str) -> Weights:
    """The format called `name`."""
    return next(weights for weights in _FORMATS if weights.name == name)


def loss_in_words(divergence: float) -> str:
    """What a mean KL divergence of the next token, in nats, means for whoever reads answers."""
    return _words(divergence)[1]


def loss_in_a_word(divergence: float) -> str:
    """The same for a table."""
    return _words(divergence)[0]


def _words(divergence: float) -> tuple[str, str]:
    return next(((word, words) for most, word, words in _WORDS if divergence <= most), _WORST)
