"""The kernels that read prompts, against their references."""

from __future__ import annotations

import pytest
import torch

from rotorquant.ops import rebuild
from rotorquant.ops.attend import Part, Rows
from rotorquant.ops.chunk import Rules, chunk_output, chunk_part, reach_of
from rotorquant.ops.dequantize import decode_table
from rotorquant.ops.planes import planes_of
from rotorquant.ops.rebuild import Twist
from tests.rotorquant.ops.kernels import (
    DEVICE,
    Spy,
    centroids_of,
    draw_rows,
    force_kernels,
    widths_and_heads,
)

pytest.importorskip("triton", reason="triton is not installed")

from rotorquant.ops.chunk.launch import HEAD_DIMS, launch_config  # noqa: E402

KINDS = (torch.bfloat16, torch.float16)


@pytest.fixture
def _forced(monkeypatch: pytest.MonkeyPatch) -> dict[str, Spy]:
    return force_kernels(monkeypatch, "chunk.chunk_kernel", "rebuild.rebuild_kernel")


Given = tuple[torch.Tensor, torch.Tensor, torch.Tensor, float, Rules]


def draw(
    batch: int,
    heads: int,
    group: int,
    length: int,
    keys: int,
    head_dim: int,
    dtype: torch.dtype,
    rules: Rules,
) -> Given:
    """Queries that lie as a projection leaves them, keys and values in larger buffers."""
    query = torch.randn(batch, length, heads * group, head_dim, device=DEVICE).transpose(1, 2)
    key, value = torch.randn(2, batch, heads, keys + 5, head_dim, device=DEVICE).to(dtype)[
        ..., :keys, :
    ]
    # Scores have a spread of about 2.
    return (2 * query).to(dtype), key, value, float(head_dim**-0.5), rules


def check(own: torch.Tensor | Part, wanted: torch.Tensor | Part, dtype: torch.dtype) -> None:
    """The largest error of every row, against the size of the row.

    Scores with a spread of 2 and weights are rounded once, outputs as well: some units in the last
    place of `dtype`. In the interpreter products are exact and only outputs are rounded.
    """
    unit = torch.finfo(dtype).eps
    if isinstance(own, Part) and isinstance(wanted, Part):
        assert torch.equal(own.mass > 0, wanted.mass > 0)
        seen = wanted.mass > 0
        logs = [(part.top + part.mass.log())[seen] for part in (own, wanted)]
        torch.testing.assert_close(*logs, rtol=0, atol=4 * unit)
        own, wanted = (part.total / part.mass.clamp_min(1e-30) for part in (own, wanted))
    assert isinstance(own, torch.Tensor) and isinstance(wanted, torch.Tensor)
    assert own.dtype == wanted.dtype
    error = (own.float() - wanted.float()).abs().amax(-1)
    assert bool((error <= 4 * unit * wanted.float().abs().amax(-1)).all()), float(error.max())


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("dtype", KINDS)
def test_a_chunk_is_the_formula_at_any_length(
    head_dim: int, dtype: torch.dtype, request: pytest.FixtureRequest
) -> None:
    """One query, one tile of them exactly, ragged ones; first keys, with past, and all older."""
    torch.manual_seed(head_dim)
    tile = launch_config(head_dim, (0, 0))
    group = 4
    cases = [
        (1, 1, Rules(0)),
        (tile.block_rows // group, 2 * tile.block_keys, Rules(2 * tile.block_keys)),
        (tile.block_rows // group + 3, tile.block_keys + 13, Rules(0)),
        (5, 0, Rules(0)),
    ]
    given = [
        draw(1, 2 if keys == 1 else 1, group, length, keys, head_dim, dtype, rules)
        for length, keys, rules in cases
    ]
    expected = [chunk_output(*each) for each in given]
    spies = request.getfixturevalue("_forced")
    for each, wanted in zip(given, expected, strict=True):
        check(chunk_output(*each), wanted, dtype)
    assert spies["chunk_kernel"].launches == len(cases)


@pytest.mark.parametrize("window", [None, 1, 9, 50])
@pytest.mark.parametrize("group", [1, 3, 16])
def test_windows_pictures_and_padding_are_index_arithmetic(
    window: int | None, group: int, request: pytest.FixtureRequest
) -> None:
    torch.manual_seed(group)
    batch, length, keys = 2, 45, 77
    blocks = torch.full((batch, keys), -1, device=DEVICE)
    blocks[0, 40:61], blocks[0, 61:70], blocks[1, 70:] = 0, 1, 2
    mask = torch.ones(batch, keys, dtype=torch.bool, device=DEVICE)
    mask[1, :38] = False
    rules = Rules(keys - length, window, reach_of(blocks, keys - length), mask)
    given = draw(batch, 1, group, length, keys, 64, torch.float16, rules)
    expected = chunk_output(*given)
    spies = request.getfixturevalue("_forced")
    check(chunk_output(*given), expected, torch.float16)
    assert spies["chunk_kernel"].launches == 1


@pytest.mark.parametrize("head_dim", [64, 512])
def test_parts_over_pieces_of_history_are_the_whole(
    head_dim: int, request: pytest.FixtureRequest
) -> None:
    """Two pieces of history, of which a row sees nothing, and then the chunk's own keys."""
    torch.manual_seed(1)
    past, length = 50, 19
    query, key, value, scaling, _ = draw(
        2, 1, 2, length, past + length, head_dim, torch.float16, Rules(0)
    )
    mask = torch.ones(2, past, dtype=torch.bool, device=DEVICE)
    mask[1] = False
    whole = torch.cat((mask, torch.ones(2, length, dtype=torch.bool, device=DEVICE)), dim=1)
    expected = chunk_output(query, key, value, scaling, Rules(past, key_mask=whole))
    spies = request.getfixturevalue("_forced")
    part = None
    for piece in (slice(0, 33), slice(33, past)):
        rules = Rules(piece.stop - piece.start, key_mask=mask[:, piece])
        part = chunk_part(query, key[:, :, piece], value[:, :, piece], scaling, rules, part)
        assert part.mass[1].count_nonzero() == part.total[1].count_nonzero() == 0
    rest = key[:, :, past:], value[:, :, past:]
    copy = Part(*(field.clone() for field in part or ()))
    check(chunk_output(query, *rest, scaling, Rules(0), part), expected, torch.float16)
    more = chunk_part(query, *rest, scaling, Rules(0), copy)
    merged = (more.total / more.mass).flatten(1, 2).transpose(1, 2).to(torch.float16)
    check(merged, expected, torch.float16)
    assert spies["chunk_kernel"].launches == 4


@pytest.mark.parametrize(("bits", "head_dim"), widths_and_heads((HEAD_DIMS[0], HEAD_DIMS[-1])))
def test_rows_are_rebuilt_as_keys_and_values(
    bits: int, head_dim: int, request: pytest.FixtureRequest
) -> None:
    torch.manual_seed(bits)
    # Table values pass through float16 on their way.
    table = decode_table(centroids_of(bits), bits).half().float()
    given = []
    for tokens in (1, 4096 // head_dim, 37):
        rows = Rows(*draw_rows(2, 2, tokens, head_dim=head_dim, bits=bits))
        given.append((rows, draw_twist(2, 2, tokens, head_dim, bits)))
    wanted = [rebuild.rebuild(rows, table, twist, torch.float16) for rows, twist in given]
    plain = rebuild.rebuild(given[-1][0], table, None, torch.float32)[1]
    spies = request.getfixturevalue("_forced")
    for (rows, twist), expected in zip(given, wanted, strict=True):
        # One rounding to the dtype of a few float32 operations.
        for own, other in zip(
            rebuild.rebuild(rows, table, twist, torch.float16), expected, strict=True
        ):
            torch.testing.assert_close(own, other, rtol=2e-3, atol=2e-3)
    both = rebuild.rebuild(given[-1][0], table, None, torch.float32)
    assert both[0] is both[1]
    torch.testing.assert_close(both[1], plain, rtol=2e-3, atol=0)
    assert spies["rebuild_kernel"].launches == 4


def draw_twist(batch: int, heads: int, tokens: int, head_dim: int, bits: int) -> Twist:
    """The first pairs (i, i + D/2), more than lie in the first fields of 2-bit bytes."""
    pairs = head_dim // 4 + 1
    place = torch.tensor(planes_of(bits).storage_order(head_dim), device=DEVICE).argsort()
    places = torch.cat((place[:pairs], place[head_dim // 2 : head_dim // 2 + pairs]))
    still = torch.ones(head_dim, dtype=torch.bool, device=DEVICE)
    still[places] = False
    angles = torch.rand(batch, tokens, pairs, device=DEVICE) * 6.28
    return Twist(
        places[:pairs],
        places[pairs:],
        still,
        torch.randn(heads, 4, pairs, device=DEVICE),
        torch.randn(heads, 2, pairs, device=DEVICE),
        angles.cos(),
        angles.sin(),
    )


def test_other_dtypes_and_head_sizes_stay_with_the_reference(_forced: dict[str, Spy]) -> None:
    for head_dim, dtype in ((64, torch.float32), (80, torch.float16)):
        chunk_output(*draw(1, 1, 2, 5, 5, head_dim, dtype, Rules(0)))
    assert _forced["chunk_kernel"].launches == 0
