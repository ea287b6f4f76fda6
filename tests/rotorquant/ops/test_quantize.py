"""Codes, planes and scales against the formulas, spelled out value by value."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rotorquant.codec.codebook import LEGACY_CENTROIDS, lloyd_max, lloyd_max_distortion
from rotorquant.ops.dequantize import dequantize, unpack_codes
from rotorquant.ops.planes import PACKED_BITS, planes_of
from rotorquant.ops.quantize import make_codebook, pack_codes, quantize
from tests.rotorquant.ops.kernels import book_of, centroids_of, rotors_of

WIDTHS = pytest.mark.parametrize("bits", PACKED_BITS)


@settings(deadline=None, max_examples=60)
@given(
    bits=st.sampled_from(PACKED_BITS),
    eights=st.integers(1, 65),
    shape=st.lists(st.integers(0, 5), max_size=3),
    seed=st.integers(0, 2**31),
)
def test_packing_loses_nothing_and_leaves_no_holes(
    bits: int, eights: int, shape: list[int], seed: int
) -> None:
    head_dim = 8 * eights
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(2**bits, (*shape, head_dim), generator=generator, dtype=torch.uint8)
    primary, extra = pack_codes(codes, bits)
    assert torch.equal(unpack_codes(primary, extra, bits), codes)
    bytes_per_vector = primary.shape[-1] + (0 if extra is None else extra.shape[-1])
    assert bytes_per_vector == head_dim * bits // 8


@WIDTHS
def test_every_bit_lies_where_the_layout_says(bits: int) -> None:
    head_dim, planes = 64, planes_of(bits)
    codes = torch.randint(2**bits, (head_dim,), dtype=torch.uint8)
    primary, extra = pack_codes(codes, bits)
    half, quarter = head_dim // 2, head_dim // 4
    offsets = {1: [0], 2: [0, half], 4: [0, half, quarter, half + quarter]}[planes.fields]
    columns = head_dim // planes.fields
    for column in range(columns):
        for field, offset in enumerate(offsets):
            low = int(primary[column]) >> (planes.primary * field) & (2**planes.primary - 1)
            high = 0
            if extra is not None:
                group, byte = divmod(column, extra.numel())
                shift = planes.group_bits * group + planes.extra * field
                high = int(extra[byte]) >> shift & (2**planes.extra - 1)
            assert low + (high << planes.primary) == int(codes[column + offset])


@WIDTHS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_value_gets_the_nearest_centroid(bits: int, dtype: torch.dtype) -> None:
    vectors = (torch.randn(9, 24) * torch.logspace(-3, 3, 9)[:, None]).to(dtype)
    centroids = centroids_of(bits)
    primary, extra, scale = quantize(vectors, book_of(bits))
    unit = vectors.double()
    unit = unit / unit.square().mean(-1, keepdim=True).sqrt()
    distance = (unit[..., None] - centroids.double()).abs()
    chosen = distance.gather(-1, unpack_codes(primary, extra, bits).long()[..., None])
    # A float32 tie may fall to either side.
    assert ((chosen.squeeze(-1) - distance.amin(-1)) < 1e-6).all()
    assert scale.dtype == torch.float16


@WIDTHS
def test_a_decoded_vector_is_as_long_as_the_original(bits: int) -> None:
    vectors = torch.randn(2, 3, 5, 128)
    centroids = centroids_of(bits)
    decoded = dequantize(*quantize(vectors, book_of(bits)), centroids, bits)
    assert decoded.shape == vectors.shape
    # The scale is rounded to float16: 11 bits.
    torch.testing.assert_close(decoded.norm(dim=-1), vectors.norm(dim=-1), rtol=2**-11, atol=0)


@WIDTHS
def test_the_error_on_a_gaussian_is_the_theoretical_one(bits: int) -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(500, 512, generator=generator)
    centroids = centroids_of(bits)
    decoded = dequantize(*quantize(vectors, book_of(bits)), centroids, bits)
    error = (decoded - vectors).square().sum() / vectors.square().sum()
    # The matched norm stretches by 1 / sqrt(1 - D): 2 (1 - sqrt(1 - D)) instead of D.
    expected = 2 * (1 - (1 - lloyd_max_distortion(bits)) ** 0.5)
    assert float(error) == pytest.approx(expected, rel=0.02)


def test_a_zero_vector_comes_back_as_zero() -> None:
    centroids = centroids_of(4)
    decoded = dequantize(*quantize(torch.zeros(2, 16), book_of(4)), centroids, 4)
    assert torch.equal(decoded, torch.zeros(2, 16))


@pytest.mark.parametrize(("head_dim", "bits"), [(12, 4), (0, 4), (16, 7)])
def test_what_cannot_be_packed_is_refused(head_dim: int, bits: int) -> None:
    with pytest.raises(ValueError, match="packed are"):
        pack_codes(torch.zeros(1, head_dim, dtype=torch.uint8), bits)


@pytest.mark.parametrize(
    "values", [*map(lloyd_max, PACKED_BITS), LEGACY_CENTROIDS, (-3.0, 0.0, 0.25, 9.0)]
)
def test_a_cell_and_one_comparison_find_the_code(values: tuple[float, ...]) -> None:
    book = make_codebook(values, torch.device("cpu"))
    bounds = (book.centroids[1:] + book.centroids[:-1]) / 2
    far = torch.tensor(torch.inf)
    # Also the very bounds and what is next to them, and the edges of the cells.
    edges = (torch.arange(len(book.cells)) - book.first) / book.per_unit
    near = torch.cat((bounds, torch.nextafter(bounds, far), torch.nextafter(bounds, -far)))
    unit = torch.cat((torch.randn(10_000), near, edges, torch.tensor([-1e30, 1e30, -far, far])))
    cell = (unit * book.per_unit + book.first).clamp(0, len(book.cells) - 1).int()
    bound = (book.cells[cell] >> 32).int().view(torch.float32)
    code = book.cells[cell].int() + (unit > bound)
    assert torch.equal(code, torch.bucketize(unit, bounds))


@pytest.mark.parametrize("values", [(0.0, 1.0), (0.0, 1.0, 2.0), (0.0, 1e-9, 2e-9, 1.0)])
def test_what_is_no_codebook_is_refused(values: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="centroids"):
        make_codebook(values, torch.device("cpu"))


@pytest.mark.parametrize("rotors", [False, True])
def test_rows_go_where_they_belong_and_nowhere_else(rotors: bool) -> None:
    vectors = torch.randn(2, 3, 5, 64)
    by = rotors_of(64) if rotors else None
    packed = quantize(vectors, book_of(3), by, matched=False)
    # Without the matched norm the scale is the root of the mean square.
    mean = vectors.square().mean(-1).sqrt()
    torch.testing.assert_close(packed[2].float(), mean, rtol=2**-10, atol=0)
    targets = [
        torch.full((2, 3, 9, *f.shape[3:]), 7, dtype=f.dtype) for f in packed if f is not None
    ]
    primary, extra, scale = (field[:, :, 2:7] for field in targets)
    quantize(vectors, book_of(3), by, matched=False, into=(primary, extra, scale))
    for field, target in zip(packed, targets, strict=True):
        assert field is not None
        assert torch.equal(target[:, :, 2:7], field)
        assert (target[:, :, :2] == 7).all()
        assert (target[:, :, 7:] == 7).all()
