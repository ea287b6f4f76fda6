"""Codecs: what they store, how exactly, and that queries meet rows as they meet vectors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from rotorquant.calibration.statistics import StreamStatistics, make_frame
from rotorquant.codec.codebook import lloyd_max_distortion
from rotorquant.codec.codec import Codec, Frame
from rotorquant.codec.make_codec import make_codec
from rotorquant.config import BLOCK_BITS, MODES, RotorQuantConfig
from rotorquant.ops.attend import attend_packed
from rotorquant.ops.attend.reference import merge

CPU = torch.device("cpu")
D = 128


def codec_of(bits: int, mode: str, frame: Frame | None = None, **options: Any) -> Codec:
    return make_codec(RotorQuantConfig(bits, mode, **options), 0, None, D, CPU, frame)


def gaussian(tokens: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(1, 2, tokens, D, generator=torch.Generator().manual_seed(seed))


def relative_error(codec: Codec, vectors: torch.Tensor) -> float:
    error = codec.decode(codec.encode(vectors)) - vectors
    return float(error.square().sum() / vectors.square().sum())


def some_frame() -> Frame:
    draw = torch.Generator().manual_seed(3)
    rows = torch.randn(2, 4 * D, D, generator=draw)
    queries = torch.randn(2, 4 * D, D, generator=draw) * (torch.arange(D) / D)
    mean = torch.randn(2, D, generator=draw)
    spread, weight = (x.mT @ x / len(x[0]) for x in (rows * (0.5 + torch.arange(D) / D), queries))
    return make_frame(StreamStatistics(mean, spread, weight), 0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_error_of_gaussian_vectors_is_that_of_the_codebook(mode: str, bits: int) -> None:
    d = lloyd_max_distortion(bits)
    expected = 2 - 2 * math.sqrt(1 - d)  # matched norm
    # 128 values on a sphere have thinner tails than N(0, 1), which matters most to the outermost of
    # 256 codes; one draw of 4,000 vectors adds one per cent.
    tolerance = 0.1 if bits == 8 else 0.04
    found = relative_error(codec_of(bits, mode), gaussian(2000))
    assert found == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize(("table", "published"), [("lloyd-max", 0.0093), ("legacy", 0.0203)])
def test_the_corrected_and_the_legacy_table(table: str, published: float) -> None:
    """Published for unit vectors of 128 values, norm kept."""
    codec = codec_of(4, "hadamard", table=table, scale="norm")
    assert relative_error(codec, gaussian(2000)) == pytest.approx(published, rel=0.05)


@pytest.mark.parametrize(("bits", "published"), [(3, 0.186), (4, 0.054)])
def test_the_second_stage_has_its_published_error_and_no_bias(bits: int, published: float) -> None:
    codec = codec_of(bits, "haar", tied=False, scale="norm", key_code="qjl")
    vectors = gaussian(2000)
    # One draw of S: it moves the error by some per cent.
    assert relative_error(codec, vectors) == pytest.approx(published, rel=0.05)
    decoded = codec.decode(codec.encode(vectors))
    slope = (decoded * vectors).sum() / vectors.square().sum()
    # 256,000 values leave the mean within 1 %; the first stage alone stands at 0.88 and 0.966.
    assert float(slope) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(("mode", "bits"), BLOCK_BITS.items())
def test_block_formats_round_to_their_own_grid(mode: str, bits: int) -> None:
    vectors = gaussian(50)
    decoded = codec_of(bits, mode).decode(codec_of(bits, mode).encode(vectors))
    blocks = vectors.unflatten(-1, (-1, 32))
    largest = blocks.abs().amax(-1, keepdim=True)
    step = largest / (127 if bits == 8 else 8)
    error = (decoded.unflatten(-1, (-1, 32)) - blocks).abs()
    # Half a step; in q4_0 the end of the grid on the other side lies a whole step short of the
    # largest value's mirror. Float16 steps add 2^-11 of a value.
    assert (error <= step * (0.5 if bits == 8 else 1.0) + largest * 2**-11).all()
    again = codec_of(bits, mode).decode(codec_of(bits, mode).encode(decoded))
    assert torch.equal(again, decoded)


@pytest.mark.parametrize(
    ("mode", "bits", "options", "scale_bytes"),
    [
        ("haar", 4, {}, 2),
        ("haar", 3, {"key_code": "qjl"}, 4),
        ("haar", 6, {"key_code": "qjl"}, 4),
        ("hadamard", 4, {"table": "legacy"}, 2),
        ("q8_0", 8, {}, 2 * D // 32),
        ("q4_0", 4, {}, 2 * D // 32),
    ],
)
def test_nothing_is_stored_beside_codes_and_scales(
    mode: str, bits: int, options: dict[str, Any], scale_bytes: int
) -> None:
    rows = codec_of(bits, mode, tied=False, **options).encode(gaussian(10))
    size = sum(field.nbytes for field in rows if field is not None) / 20
    assert size == D * bits / 8 + scale_bytes


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("frame", [None, some_frame()], ids=["plain", "framed"])
def test_scores_and_sums_in_the_space_of_the_rows_are_those_of_decoded_vectors(
    mode: str, frame: Frame | None
) -> None:
    codec = codec_of(4, mode, frame)
    rows, query = codec.encode(gaussian(30)), gaussian(5, seed=1)
    part = attend_packed(codec.to_stored(query), rows, None, codec.table)
    decoded = codec.decode(rows)
    expected = (query @ decoded.mT).softmax(-1) @ decoded
    given = codec.from_stored(merge([part]))
    if codec.offset is not None:
        given = given + codec.offset
    # Float32 sums of 128 products of order 1.
    torch.testing.assert_close(given, expected, atol=2e-5, rtol=0)


def correlated() -> tuple[torch.Tensor, StreamStatistics]:
    """Vectors [1, 2, N, D] whose values have a mean and much in common, and an even weight."""
    draw = torch.Generator().manual_seed(5)
    root = torch.randn(2, D, D, generator=draw) * torch.randn(2, 1, D, generator=draw).exp()
    mean = 100 * torch.randn(2, 1, D, generator=draw)
    vectors = mean + gaussian(500) @ root.mT
    even = torch.eye(D).repeat(2, 1, 1)
    return vectors, StreamStatistics(mean[:, 0], root @ root.mT, even)


def test_a_frame_takes_out_what_it_was_made_for() -> None:
    vectors, known = correlated()
    plain, framed = (codec_of(4, "hadamard", f) for f in (None, make_frame(known, 0)))
    spread = (vectors - known.mean[:, None]).square().sum()
    errors = [
        float((c.decode(c.encode(vectors)) - vectors).square().sum() / spread)
        for c in (plain, framed)
    ]
    assert errors[1] < lloyd_max_distortion(4)
    assert errors[0] > 10 * errors[1]


def test_codes_that_make_up_for_each_other_cost_less_where_errors_matter_jointly() -> None:
    vectors, known = correlated()
    frame = make_frame(known, 0)
    apart = frame._replace(feedback=torch.zeros_like(frame.feedback))
    shaped, plain = (codec_of(3, "hadamard", f) for f in (frame, apart))
    costs = [float((c.decode(c.encode(vectors)) - vectors).square().sum()) for c in (shaped, plain)]
    assert costs[0] < 0.9 * costs[1]


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_zeros_and_large_values_survive(bits: int) -> None:
    codec = codec_of(bits, "aligned")
    assert torch.equal(codec.decode(codec.encode(torch.zeros(1, 1, 3, D))), torch.zeros(1, 1, 3, D))
    assert relative_error(codec, 1e3 * gaussian(3)) < 0.2
