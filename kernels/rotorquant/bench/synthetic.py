"""Errors of every method on synthetic vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rotorquant.bench.vectors import KINDS, Sample, draw_sample, rotate
from rotorquant.calibration.statistics import make_frame, offset_alone
from rotorquant.codec.codebook import lloyd_max_distortion
from rotorquant.codec.codec import Codec, Frame
from rotorquant.codec.make_codec import make_codec
from rotorquant.fidelity.methods import Method

__all__ = ["HEAD_DIM", "Errors", "SyntheticRow", "measure", "theory"]

HEAD_DIM = 512
_LOGIT_STD = 3.0  # peaked attention: some ten of 2,048 tokens matter


@dataclass(frozen=True, slots=True)
class Errors:
    """Mean squares of errors, relative to what was to be stored, on one kind of vectors.

    Attributes:
        vector: of V, relative to its spread about the mean.
        logit: of the scores, less what is common to all scores of a query.
        output: of the attention output, relative to its spread about the mean of V.
    """

    vector: float
    logit: float
    output: float


@dataclass(frozen=True, slots=True)
class SyntheticRow:
    """The errors of one method.

    Attributes:
        name, bits: see `Method`.
        bits_per_value: of a stored vector, scales included, counted on its tensors.
        token_bytes: of one token and KV head of `HEAD_DIM` values.
        errors: by kind.
    """

    name: str
    bits: int
    bits_per_value: float
    token_bytes: int
    errors: dict[str, Errors]


def theory(bits: int) -> float:
    """Expected relative error of a Gaussian vector with a matched norm: 2 - 2 sqrt(1 - D)."""
    return 2.0 - 2.0 * math.sqrt(1.0 - lloyd_max_distortion(bits))


def measure(method: Method, tokens: int) -> SyntheticRow:
    """The errors of one method on every kind of vectors."""
    errors, size = {}, 0
    for kind in KINDS:
        sample = draw_sample(kind, tokens, 64, HEAD_DIM, _LOGIT_STD)
        codecs = _codecs(method, sample)
        errors[kind], size = _errors(codecs, sample)
    return SyntheticRow(method.name, method.bits, size * 8 / (HEAD_DIM * len(codecs)), size, errors)


def _codecs(method: Method, sample: Sample) -> list[Codec]:
    """The codec of V, or those of K and of V."""
    pairs = sample.pairs if method.config.tied else None
    frame: Frame | None = None
    if method.known != "nothing":
        (known,) = sample.statistics()
        known = known if method.known == "all" else offset_alone(known)
        frame = make_frame(known, sample.pairs if method.config.mode == "aligned" else 0)
    streams = range(1 if method.config.tied else 2)
    device = torch.device("cpu")
    return [make_codec(method.config, s, pairs, HEAD_DIM, device, frame) for s in streams]


def _errors(codecs: Sequence[Codec], sample: Sample) -> tuple[Errors, int]:
    """The errors, and the bytes of a token."""
    positions = torch.arange(sample.values.shape[0])
    queries = rotate(
        sample.queries, torch.full((len(sample.queries),), len(positions)), sample.pairs
    )
    keys = rotate(sample.values, positions, sample.pairs)
    streams = [sample.values] if len(codecs) == 1 else [keys, sample.values]
    decoded, size = [], 0
    for codec, stream in zip(codecs, streams, strict=True):
        # bf16 is what a model hands over, and what 16 bits keep.
        rows = codec.encode(stream.to(torch.bfloat16)[None, None])
        size += sum(field.nbytes for field in rows if field is not None) // len(stream)
        decoded.append(codec.decode(rows)[0, 0])
    values = decoded[-1]
    found = rotate(values, positions, sample.pairs) if len(codecs) == 1 else decoded[0]
    scores, found_scores = queries @ keys.mT, queries @ found.mT
    output = scores.softmax(-1) @ sample.values
    error = found_scores.softmax(-1) @ values - output
    return (
        Errors(
            _ratio(values - sample.values, sample.values - sample.mean),
            _ratio(_centred(found_scores - scores), _centred(scores)),
            _ratio(error, output - sample.mean),
        ),
        size,
    )


def _centred(scores: torch.Tensor) -> torch.Tensor:
    return scores - scores.mean(-1, keepdim=True)


def _ratio(error: torch.Tensor, signal: torch.Tensor) -> float:
    return float(error.double().square().sum() / signal.double().square().sum())
