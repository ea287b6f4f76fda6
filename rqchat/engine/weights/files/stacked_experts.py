"""Experts that a checkpoint keeps as matrices of their own, read as the model has them.

Quantizers know linear layers, so they take a mixture apart: `experts.7.gate_proj.weight`, `up_proj`
and `down_proj`. The model has all of a layer in two tensors, `experts.gate_up_proj` [experts,
2 * inner, hidden], gate above up, and `experts.down_proj` [experts, hidden, inner].
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import torch

from rqchat.engine.weights.files.safetensors_source import WeightSource
from rqchat.engine.weights.grid import Packed, matrix_of
from rqchat.engine.weights.transfer import ByteStream

__all__ = ["StackedExperts", "has_split_experts"]

_PIECE = re.compile(r"(.+\.experts\.)(\d+)\.(gate|up|down)_proj\.weight")
_STACKS = {"gate": "gate_up_proj", "up": "gate_up_proj", "down": "down_proj"}


def has_split_experts(names: Iterable[str]) -> bool:
    """Whether there are such matrices among them."""
    return any(_PIECE.fullmatch(name) for name in names)


class StackedExperts:
    """A `WeightSource` over another one, with the experts of each layer one below the other."""

    def __init__(self, source: WeightSource) -> None:
        """`source` is where the matrices lie."""
        self._source = source
        self._stacks: dict[str, list[str]] = {}
        names: dict[str, None] = {}
        found = ((name, _PIECE.fullmatch(name)) for name in source.names())
        for name, piece in sorted(found, key=lambda item: _place(item[1])):
            if piece is None:
                names[name] = None
            else:
                stack = piece[1] + _STACKS[piece[3]]
                names[stack] = None
                self._stacks.setdefault(stack, []).append(name)
        self._names = list(names)

    def names(self) -> list[str]:
        """The names of all tensors, those of experts sorted by expert."""
        return self._names

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape that the module has: of stacked experts [experts, rows, columns]."""
        pieces = self._pieces(name)
        if name not in self._stacks:
            return self._source.shape(name)
        rows, columns = self._source.shape(pieces[0])
        each = 2 if name.endswith(_STACKS["gate"]) else 1
        return len(pieces) // each, each * rows, columns

    def nbytes(self, name: str) -> int:
        """Bytes in the files, of all experts together."""
        return sum(self._source.nbytes(piece) for piece in self._pieces(name))

    def is_packed(self, name: str) -> bool:
        """Whether every expert's matrix is stored on the grid `INT4`."""
        return all(self._source.is_packed(piece) for piece in self._pieces(name))

    def dtype(self, name: str) -> torch.dtype | None:
        """What it is stored in; None for experts, which have to be put together."""
        return None if name in self._stacks else self._source.dtype(name)

    def rows(self, name: str, part: range, stream: ByteStream) -> torch.Tensor:
        """Some rows [n, columns] in a floating type."""
        begin, found = 0, []
        for piece in self._pieces(name):
            end = begin + matrix_of(self._source.shape(piece))[0]
            own = range(max(part.start, begin) - begin, min(part.stop, end) - begin)
            if own:
                found.append(self._source.rows(piece, own, stream))
            begin = end
        return found[0] if len(found) == 1 else torch.cat(found)

    def packed(self, name: str, stream: ByteStream, *, keep: bool = True) -> Packed:
        """The matrix on the grid `INT4`, experts one below the other."""
        if name not in self._stacks:
            return self._source.packed(name, stream, keep=keep)
        # Each is copied into the joined matrix, so none of them is to stay mapped
        pieces = (self._source.packed(piece, stream, keep=False) for piece in self._pieces(name))
        return Packed.join(pieces, matrix_of(self.shape(name))[0])

    def _pieces(self, name: str) -> Sequence[str]:
        return self._stacks.get(name, (name,))


def _place(piece: re.Match[str] | None) -> tuple[int, bool]:
    """Sorts pieces by expert, gate before up; everything else stays in its order, and first."""
    return (-1, False) if piece is None else (int(piece[2]), piece[3] == "up")
