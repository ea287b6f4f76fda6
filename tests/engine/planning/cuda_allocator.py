"""Torch's allocator for CUDA, replayed: what it takes of a card for tensors that come and go.

The rules are those of c10/cuda/CUDACachingAllocator.cpp (torch 2.11 to 2.13): sizes round up to 512
bytes, the smallest free block that fits is taken and split, and neighbours that are free merge.
"""

from __future__ import annotations

from bisect import bisect_left, insort

__all__ = ["Allocator", "Block"]

_MIB = 2**20
_ROUND_BYTES, _SMALL_BYTES = 512, _MIB
_SMALL_SEGMENT_BYTES, _LARGE_SEGMENT_BYTES = 2 * _MIB, 20 * _MIB
_OWN_SEGMENT_BYTES, _OWN_ROUND_BYTES = 10 * _MIB, 2 * _MIB


class Block:
    """Bytes of a segment, free or not, between its neighbours."""

    __slots__ = ("behind", "before", "is_free", "size")

    def __init__(self, size: int, before: Block | None = None) -> None:
        self.size, self.before, self.is_free = size, before, True
        self.behind: Block | None = None


class _Pool:
    """The segments of small tensors, or of large ones; with expandable segments there is one."""

    def __init__(self, is_small: bool, expandable: bool) -> None:
        self._is_small, self._expandable = is_small, expandable
        self._unit = _SMALL_SEGMENT_BYTES if is_small else _LARGE_SEGMENT_BYTES
        self._free: list[tuple[int, int, Block]] = []
        self._end: Block | None = None
        self.reserved_bytes = 0

    def take(self, size: int) -> Block:
        place = bisect_left(self._free, (size,))
        block = self._free.pop(place)[2] if place < len(self._free) else self._grown(size)
        left = block.size - size
        if left >= _ROUND_BYTES if self._is_small or self._expandable else left > _SMALL_BYTES:
            self._split(block, size)
        block.is_free = False
        return block

    def give_back(self, block: Block) -> None:
        block.is_free = True
        if (behind := block.behind) is not None and behind.is_free:
            self._forget(behind)
            self._join(block, behind)
        if (before := block.before) is not None and before.is_free:
            self._forget(before)
            self._join(before, block)
            block = before
        insort(self._free, (block.size, id(block), block))

    def empty(self) -> None:
        """Free segments go back to the card; of the one that grows, free pages at its end."""
        for _, _, block in list(self._free):
            whole = block.before is None and block.behind is None and not self._expandable
            if whole or block is self._end:
                self._forget(block)
                kept = 0 if whole else block.size % self._unit
                self.reserved_bytes -= block.size - kept
                block.size = kept
                if kept:
                    insort(self._free, (kept, id(block), block))
                elif block is self._end:
                    self._end = block.before
                    if self._end is not None:
                        self._end.behind = None

    def _grown(self, size: int) -> Block:
        unit = self._unit
        if not self._expandable:
            if not self._is_small and size >= _OWN_SEGMENT_BYTES:
                unit = -(-size // _OWN_ROUND_BYTES) * _OWN_ROUND_BYTES
            self.reserved_bytes += unit
            return Block(unit)
        if self._end is None or not self._end.is_free:
            last, self._end = self._end, Block(0, self._end)
            if last is not None:
                last.behind = self._end
        else:
            self._forget(self._end)
        grown = -(-(size - self._end.size) // unit) * unit
        self.reserved_bytes += grown
        self._end.size += grown
        return self._end

    def _split(self, block: Block, size: int) -> None:
        rest = Block(block.size - size, block)
        rest.behind, block.behind, block.size = block.behind, rest, size
        if rest.behind is not None:
            rest.behind.before = rest
        if self._end is block:
            self._end = rest
        insort(self._free, (rest.size, id(rest), rest))

    def _join(self, first: Block, second: Block) -> None:
        first.size += second.size
        first.behind = second.behind
        if first.behind is not None:
            first.behind.before = first
        if self._end is second:
            self._end = first

    def _forget(self, block: Block) -> None:
        del self._free[bisect_left(self._free, (block.size, id(block)))]


class Allocator:
    """What a process has of the card, and what its tensors take of that.

    Attributes:
        allocated_bytes: of the tensors that live, rounded up.
        peak_bytes: the most that was reserved so far.
    """

    def __init__(self, *, expandable: bool) -> None:
        self._pools = {small: _Pool(small, expandable) for small in (True, False)}
        self.allocated_bytes = self.peak_bytes = 0

    @property
    def reserved_bytes(self) -> int:
        """What the card has given and not got back."""
        return sum(pool.reserved_bytes for pool in self._pools.values())

    def take(self, nbytes: int) -> Block:
        """A block for a tensor of so many bytes."""
        size = max(1, -(-nbytes // _ROUND_BYTES)) * _ROUND_BYTES
        block = self._pools[size <= _SMALL_BYTES].take(size)
        self.allocated_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.reserved_bytes)
        return block

    def give_back(self, block: Block, nbytes: int) -> None:
        """Frees the block of a tensor of so many bytes; its segment stays."""
        size = max(1, -(-nbytes // _ROUND_BYTES)) * _ROUND_BYTES
        self.allocated_bytes -= size
        self._pools[size <= _SMALL_BYTES].give_back(block)

    def empty_cache(self) -> None:
        """What `torch.cuda.empty_cache()` does, between tensors that stay."""
        for pool in self._pools.values():
            pool.empty()
