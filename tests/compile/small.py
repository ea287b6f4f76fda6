"""The small ops of a layer, in the sizes of Gemma 4 31B."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from rotorquant.ops.append import kernel as append
from rotorquant.ops.gate import kernel as gate
from rotorquant.ops.heads import Stream
from rotorquant.ops.heads import kernel as heads
from rotorquant.ops.norm import Norm
from rotorquant.ops.norm import kernel as norm
from tests.compile.limits import SHARED_BYTES

KERNELS = (
    (norm, "norm_kernel"),
    (gate, "gate_kernel"),
    (heads, "heads_kernel"),
    (append, "append_kernel"),
    (append, "scaled_kernel"),
)


def cases(few: bool) -> Iterator[tuple[str, int, int, int]]:
    """(what, columns, bits of a value, card)."""
    for card in SHARED_BYTES:
        for what, columns in (
            *(("norm", columns) for columns in (5376, 2560, 1536)),
            ("gate", 21504),
            *(("heads", head_dim) for head_dim in (256, 512)),
            *(("append", head_dim) for head_dim in (256, 512)),
        ):
            if not few or (card == 86 and columns in (5376, 21504, 512)):
                yield what, columns, 16, card


def launch(what: str, columns: int, bits: int) -> None:
    """Call the wrappers as fused layers do."""
    rows, weight = torch.zeros(1, 2, columns, dtype=torch.bfloat16), torch.ones(columns)
    by = Norm(weight.bfloat16(), 1e-6)
    if what == "norm":
        for fields in (1, 8):
            norm.norm(rows, by._replace(fields=fields))
            norm.norm_add(rows, by, rows, weight[:1], by._replace(fields=fields))
        norm.norm_add(rows, by, rows, None, None)
    elif what == "gate":
        gate.gelu_gate(rows, rows)
    elif what == "append":
        room = torch.zeros(1, 4096 // columns, 64, columns, dtype=torch.bfloat16)
        one, count = room[:, :, :1], torch.zeros(1, dtype=torch.int64)
        total = torch.zeros(())
        append.append([room, room][: 512 // columns], [one, one], count, total)
        codes, scales = room.to(torch.int8), room[..., 0].half()
        append.append_scaled([codes, codes, scales, scales], [one, one], count, total)
        positions = torch.zeros(1, 1, 64, dtype=torch.int32)
        append.append([positions], [positions[:, :, :1]], count, None)
    else:
        raw = torch.zeros(1, 2, 8, columns, dtype=torch.bfloat16)
        streams = [Stream(raw, by.weight, True, True), Stream(raw, by.weight, True)]
        heads.norm_heads([*streams, Stream(raw, None, False)], rows, rows, 1e-6)
