"""The kernels that map or mix vectors before they choose codes, against the rule of the codes.

Products and sums are float32 in another order than in the reference, so a value within `NEAR` of a
bound may get the code on its other side. Errors are passed on from the codes that were chosen:
what a later block has left is taken from its own codes, and so every code is checked by itself.
"""

from __future__ import annotations

import pytest
import torch

from rotorquant.calibration.statistics import StreamStatistics, make_frame
from rotorquant.codec.hadamard_signs import mix_of
from rotorquant.codec.make_codec import make_codec
from rotorquant.codec.rotation import make_rotation
from rotorquant.config import RotorQuantConfig
from rotorquant.layers.buffers import Meter
from rotorquant.layers.packed_buffer import PackedBuffer
from rotorquant.ops.dequantize import unpack_codes
from rotorquant.ops.encode import BLOCK, Dense, encode
from rotorquant.ops.mix import mix
from rotorquant.ops.planes import PACKED_BITS, planes_of
from rotorquant.ops.quantize import Packed
from tests.rotorquant.ops.kernels import DEVICE, Spy, book_of, centroids_of, force_kernels

pytest.importorskip("triton", reason="triton is not installed")

from rotorquant.ops.launches import HEAD_DIMS  # noqa: E402

# Float32 sums of up to 512 products: some units in the last place of a value below 8.
NEAR = 1e-5
KINDS = (torch.float32, torch.bfloat16, torch.float16)
LEFT_ALONE = 7


@pytest.fixture
def _forced(monkeypatch: pytest.MonkeyPatch) -> dict[str, Spy]:
    return force_kernels(
        monkeypatch, "encode.map_kernel", "mix.mix_kernel", "quantize.quantize_kernel"
    )


def projected(
    batch: int, heads: int, tokens: int, head_dim: int, dtype: torch.dtype
) -> torch.Tensor:
    """Vectors [B, H, N, D] of many lengths as a projection leaves them, one of them zero."""
    vectors = torch.randn(batch, tokens, heads, head_dim, device=DEVICE)
    vectors *= torch.logspace(-2, 2, tokens, device=DEVICE)[:, None, None]
    vectors[0, tokens // 2] = 0
    return vectors.to(dtype).transpose(1, 2)


def some_dense(heads: int, head_dim: int, shaped: bool) -> Dense:
    """A map of every head, an offset, and a feedback as `statistics.feedback_of` has it."""
    if not shaped:
        return Dense(torch.linalg.qr(torch.randn(head_dim, head_dim, device=DEVICE)).Q[None])
    matrix = torch.randn(heads, head_dim, head_dim, device=DEVICE) / head_dim**0.5
    offset = torch.randn(heads, 1, head_dim, device=DEVICE)
    number = torch.arange(head_dim, device=DEVICE) // BLOCK
    feedback = torch.randn(heads, head_dim, head_dim, device=DEVICE) / 8
    return Dense(matrix, offset, feedback * (number[:, None] < number))


def page_buffer(vectors: torch.Tensor, bits: int) -> list[torch.Tensor]:
    """Planes and scales of a page buffer with a capacity of three more tokens."""
    *shape, tokens, head_dim = vectors.shape
    planes = planes_of(bits)
    sizes = planes.primary_bytes(head_dim), planes.extra_bytes(head_dim)
    fields = [torch.empty(*shape, tokens + 3, s, dtype=torch.uint8, device=DEVICE) for s in sizes]
    fields.append(torch.empty(*shape, tokens + 3, dtype=torch.float16, device=DEVICE))
    return [field.fill_(LEFT_ALONE) for field in fields]


def views(fields: list[torch.Tensor], tokens: int) -> Packed:
    primary, extra, scale = (field[:, :, 2 : 2 + tokens] for field in fields)
    return primary, extra if extra.shape[-1] else None, scale


def check(packed: Packed, inner: torch.Tensor, bits: int, feedback: torch.Tensor | None) -> None:
    """Codes and scales of z [B, H, N, D] float64 by the rule."""
    centroids = centroids_of(bits).double()
    end = centroids.new_full((1,), torch.inf)
    bounds = torch.cat((-end, (centroids[1:] + centroids[:-1]) / 2, end))
    primary, extra, scale = packed
    codes = unpack_codes(primary, extra, bits).long()
    norm = inner.norm(dim=-1, keepdim=True)
    wanted = unit = inner / (norm / inner.shape[-1] ** 0.5).clamp_min(1e-30)
    if feedback is not None:
        wanted = unit + (unit - centroids[codes]) @ feedback.double().mT
    # Errors that are passed on grow with the sum
    near = NEAR * (1 + wanted.abs().amax(-1, keepdim=True))
    assert (wanted > bounds[codes] - near).all()
    assert (wanted < bounds[codes + 1] + near).all()
    exact = norm.squeeze(-1) / centroids[codes].norm(dim=-1)
    # Rounded to float16, of a float32 quotient.
    torch.testing.assert_close(scale.double(), exact, rtol=2**-10, atol=2**-24)


@pytest.mark.parametrize(
    ("bits", "head_dim"), [*((b, 64) for b in PACKED_BITS), *((3, d) for d in HEAD_DIMS if d != 64)]
)
@pytest.mark.parametrize("shaped", [False, True])
def test_mapped_vectors_get_the_codes_of_the_rule(
    bits: int, head_dim: int, shaped: bool, _forced: dict[str, Spy]
) -> None:
    torch.manual_seed(bits)
    shapes = ((1, 2, 17), (2, 1, 3), (1, 1, 1))
    for shape, dtype in zip(shapes, KINDS, strict=True):
        vectors = projected(*shape, head_dim, dtype)
        by = some_dense(shape[1], head_dim, shaped)
        fields = page_buffer(vectors, bits)
        packed = encode(vectors, book_of(bits), by, into=views(fields, shape[2]))
        moved = vectors.double() - (0 if by.offset is None else by.offset.double())
        check(packed, moved @ by.matrix.double().mT, bits, by.feedback)
        for field in fields:
            assert (field[:, :, :2] == LEFT_ALONE).all()
            assert (field[:, :, 2 + shape[2] :] == LEFT_ALONE).all()
    assert _forced["map_kernel"].launches == len(shapes)


@pytest.mark.parametrize(
    ("mode", "head_dim", "pairs", "bits"),
    [
        *(("aligned", 512, 64, bits) for bits in (2, 3, 4, 8)),
        ("hadamard", 512, 0, 5),
        ("hadamard", 256, 0, 6),
        ("aligned", 256, 32, 4),
    ],
)
def test_mixed_vectors_get_the_codes_of_the_rule(
    mode: str, head_dim: int, pairs: int, bits: int, _forced: dict[str, Spy]
) -> None:
    torch.manual_seed(bits)
    rotation = make_rotation(mode, head_dim, 0, DEVICE, pairs)
    by = mix_of(rotation, head_dim)
    assert by is not None
    for shape, dtype in zip(((1, 2, 5), (2, 1, 4), (1, 1, 1)), KINDS, strict=True):
        vectors = projected(*shape, head_dim, dtype)
        fields = page_buffer(vectors, bits)
        packed = encode(vectors, book_of(bits), by, into=views(fields, shape[2]))
        exact = rotation.apply(torch.eye(head_dim, device=DEVICE)).double()
        check(packed, vectors.double() @ exact, bits, None)
        for field in fields:
            assert (field[:, :, :2] == LEFT_ALONE).all()
            assert (field[:, :, 2 + shape[2] :] == LEFT_ALONE).all()
    assert _forced["mix_kernel"].launches == 3


@pytest.mark.parametrize("matched", [False, True])
def test_the_references_are_the_same_rule(matched: bool) -> None:
    torch.manual_seed(0)
    vectors = projected(1, 2, 30, 256, torch.bfloat16)
    by = mix_of(make_rotation("hadamard", 256, 0, DEVICE), 256)
    assert by is not None
    mixed = mix(vectors.float(), by)
    dense = Dense(mix(torch.eye(256, device=DEVICE), by).mT[None])
    for packed in (
        encode(vectors, book_of(4), by, matched),
        encode(vectors, book_of(4), dense, matched),
    ):
        if matched:
            check(packed, mixed.double(), 4, None)
        else:
            mean = mixed.square().mean(-1).sqrt()
            torch.testing.assert_close(packed[2].float(), mean, rtol=2**-10, atol=2**-24)


@pytest.mark.parametrize(
    ("mode", "framed", "expected"),
    [
        ("aligned", False, "mix"),
        ("hadamard", False, "mix"),
        ("haar", False, "map"),
        ("rotor", False, "map"),
        ("aligned", True, "map"),
        ("planar", False, "quantize"),
    ],
)
def test_pages_are_packed_in_place_by_the_kernel_of_the_mode(
    mode: str, framed: bool, expected: str, _forced: dict[str, Spy]
) -> None:
    torch.manual_seed(0)
    vectors = projected(1, 2, 9, 256, torch.bfloat16)
    even = torch.eye(256).repeat(2, 1, 1)
    frame = make_frame(StreamStatistics(torch.zeros(2, 256), even, even), 32) if framed else None
    codec = make_codec(RotorQuantConfig(4, mode), 0, 32, 256, DEVICE, frame)
    pages = PackedBuffer([codec], [vectors], 12, Meter())
    addresses = [tensor.data_ptr() for tensor in pages.whole()]
    pages.pack([vectors[:, :, :4]])
    pages.pack([vectors[:, :, 4:]])
    assert pages.length == int(pages.count) == 9
    assert [tensor.data_ptr() for tensor in pages.whole()] == addresses
    assert {name: spy.launches for name, spy in _forced.items() if spy.launches} == {
        f"{expected}_kernel": 2
    }
    (decoded,) = pages.decode(torch.float32)
    error = (decoded - vectors.float()).square().sum(-1)
    # Of single vectors, around the 0.0095 expected of Gaussian ones.
    assert (error <= 0.03 * vectors.float().square().sum(-1)).all()


def test_no_vectors_and_other_head_sizes(_forced: dict[str, Spy]) -> None:
    none = torch.empty(1, 2, 0, 64, device=DEVICE)
    primary, extra, scale = encode(none, book_of(3), some_dense(2, 64, True))
    assert extra is not None
    assert (primary.shape, extra.shape, scale.shape) == ((1, 2, 0, 16), (1, 2, 0, 8), (1, 2, 0))
    encode(torch.zeros(1, 1, 2, 24, device=DEVICE), book_of(4), some_dense(1, 24, False))
    assert not any(spy.launches for spy in _forced.values())


def test_maps_of_other_vectors_are_refused(_forced: dict[str, Spy]) -> None:
    signs = mix_of(make_rotation("hadamard", 256, 0, DEVICE), 256)
    assert signs is not None
    vectors = torch.ones(1, 2, 1, 64, device=DEVICE)
    # Of another head size, and of more heads than there are, which a kernel would read beyond
    for by in (some_dense(2, 32, True), some_dense(3, 64, True), signs):
        with pytest.raises(ValueError, match="does not fit"):
            encode(vectors, book_of(4), by)
    assert not any(spy.launches for spy in _forced.values())


@pytest.mark.parametrize(("head_dim", "pairs"), [(512, 64), (512, 0), (256, 32), (256, 0)])
def test_signs_are_found_for_the_sizes_of_gemma(head_dim: int, pairs: int) -> None:
    rotation = make_rotation("aligned", head_dim, 3, DEVICE, pairs)
    by = mix_of(rotation, head_dim)
    assert by is not None
    vectors = torch.randn(7, head_dim, device=DEVICE)
    # Two float32 sums of the same 384 products or so.
    torch.testing.assert_close(mix(vectors, by), rotation.apply(vectors), atol=4e-6, rtol=0)


@pytest.mark.parametrize(
    ("mode", "head_dim", "pairs"),
    [("haar", 512, 0), ("iso", 512, 0), ("aligned", 512, 16), ("hadamard", 128, 0)],
)
def test_other_maps_have_no_such_form(mode: str, head_dim: int, pairs: int) -> None:
    assert mix_of(make_rotation(mode, head_dim, 0, DEVICE, pairs), head_dim) is None
