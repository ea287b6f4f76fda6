"""The kernels of quantize and dequantize against their references."""

from __future__ import annotations

import pytest
import torch

from rotorquant.ops.dequantize import dequantize
from rotorquant.ops.planes import PACKED_BITS
from rotorquant.ops.quantize import quantize
from rotorquant.ops.rotors import Rotors, turn
from tests.rotorquant.ops.kernels import (
    DEVICE,
    Spy,
    book_of,
    centroids_of,
    draw_rows,
    force_kernels,
    rotors_of,
    widths_and_heads,
)

pytest.importorskip("triton", reason="triton is not installed")

from rotorquant.ops.launches import HEAD_DIMS  # noqa: E402

CASES = pytest.mark.parametrize(
    ("bits", "head_dim", "turned"),
    [
        *((bits, 64, False) for bits in PACKED_BITS),
        *((*each, True) for each in widths_and_heads(HEAD_DIMS)),
    ],
)
# Lengths around a block, which has 4 to 64 vectors.
SHAPES = ((1, 1, 1), (2, 3, 5), (1, 1, 65))


@pytest.fixture
def _forced(monkeypatch: pytest.MonkeyPatch) -> dict[str, Spy]:
    return force_kernels(monkeypatch, "quantize.quantize_kernel", "dequantize.dequantize_kernel")


def projected(
    shape: tuple[int, int, int], head_dim: int, bits: int, dtype: torch.dtype, rotors: Rotors | None
) -> torch.Tensor:
    """Vectors [B, H, N, D] as a projection leaves them, [B, N, H, D], with zero vectors.

    None lies so near to a boundary that another order of summation could change a code.
    """
    batch, heads, tokens = shape
    spread = torch.logspace(-2, 2, batch * tokens * heads, device=DEVICE)[:, None]
    vectors = torch.zeros(batch * tokens * heads, head_dim, dtype=dtype, device=DEVICE)
    centroids = centroids_of(bits)
    bounds = (centroids[1:] + centroids[:-1]) / 2
    for _ in range(100):
        drawn = (torch.randn(vectors.shape, device=DEVICE) * spread).to(dtype)
        unit = drawn.float() if rotors is None else turn(drawn.float(), rotors)
        unit = unit / unit.square().mean(-1, keepdim=True).sqrt()
        right = torch.bucketize(unit, bounds).clamp(max=len(bounds) - 1)
        gaps = (unit - bounds[right]).abs().minimum((unit - bounds[(right - 1).clamp(0)]).abs())
        safe = (gaps > 4e-6).all(-1)
        missing = (vectors == 0).all(-1)
        vectors[safe & missing] = drawn[safe & missing]
        if bool((vectors != 0).any(-1).all()):
            break
    else:
        pytest.fail("no vectors without near ties")
    vectors[1::4] = 0
    return vectors.view(batch, tokens, heads, head_dim).transpose(1, 2)


@CASES
def test_quantize_gives_the_bytes_of_the_reference(
    bits: int, head_dim: int, turned: bool, request: pytest.FixtureRequest
) -> None:
    torch.manual_seed(bits)
    rotors = rotors_of(head_dim) if turned else None
    book = book_of(bits)
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    cases = [
        projected(shape, head_dim, bits, dtype, rotors)
        for shape, dtype in zip(SHAPES, dtypes, strict=True)
    ]
    expected = [quantize(vectors.contiguous(), book, rotors) for vectors in cases]
    spies = request.getfixturevalue("_forced")
    for vectors, (primary, extra, scale) in zip(cases, expected, strict=True):
        own = quantize(vectors, book, rotors)
        assert torch.equal(own[0], primary)
        assert (own[1] is None) == (extra is None)
        if extra is not None and own[1] is not None:
            assert torch.equal(own[1], extra)
        # Lengths are summed in another order: at most the next float16.
        torch.testing.assert_close(own[2], scale, rtol=2**-10, atol=2**-24)
    assert spies["quantize_kernel"].launches == len(cases)


@CASES
def test_dequantize_gives_the_values_of_the_reference(
    bits: int, head_dim: int, turned: bool, request: pytest.FixtureRequest
) -> None:
    torch.manual_seed(bits)
    rotors = rotors_of(head_dim) if turned else None
    centroids = centroids_of(bits)
    cases = [draw_rows(*shape, head_dim=head_dim, bits=bits) for shape in SHAPES]
    expected = [dequantize(*rows, centroids, bits, rotors) for rows in cases]
    spies = request.getfixturevalue("_forced")
    for rows, vectors in zip(cases, expected, strict=True):
        own = dequantize(*rows, centroids, bits, rotors)
        # Two products and a sum in float32, fused or not; without rotors a single product.
        torch.testing.assert_close(own, vectors, rtol=0, atol=4e-6 if turned else 0.0)
    assert spies["dequantize_kernel"].launches == len(cases)


@pytest.mark.parametrize("shape", [(64,), (3, 64), (2, 1, 3, 2, 64), (2, 0, 64)])
def test_any_number_of_dimensions_is_served(
    shape: tuple[int, ...], request: pytest.FixtureRequest
) -> None:
    torch.manual_seed(0)
    # Small whole numbers: lengths are exact, so codes are equal in any order of summation.
    vectors = torch.randint(-8, 9, shape, device=DEVICE).float()
    book, centroids = book_of(3), centroids_of(3)
    primary, extra, scale = quantize(vectors, book)
    decoded = dequantize(primary, extra, scale, centroids, 3)
    request.getfixturevalue("_forced")
    own = quantize(vectors, book)
    assert extra is not None
    assert own[1] is not None
    assert torch.equal(own[0], primary)
    assert torch.equal(own[1], extra)
    assert torch.equal(dequantize(primary, extra, scale, centroids, 3), decoded)


def test_other_head_sizes_stay_with_the_reference(_forced: dict[str, Spy]) -> None:
    centroids = centroids_of(4)
    primary, extra, scale = quantize(torch.randn(3, 24, device=DEVICE), book_of(4))
    dequantize(primary, extra, scale, centroids, 4)
    assert [spy.launches for spy in _forced.values()] == [0, 0]
