"""A memory plan at a glance: what fits, what is taken, what it costs, where the memory goes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from rqchat.engine.planning.alternatives import Alternative
from rqchat.engine.planning.formats import loss_in_a_word
from rqchat.engine.planning.plan import MemoryPlan
from rqchat.engine.sizes import format_bytes
from rqchat.ui.looks.bars import share_cells
from rqchat.ui.looks.start_header import model_title, room_for
from rqchat.ui.text import format_count, safe_line

__all__ = ["PlanView"]

_HEADINGS = ("", "", "quality", "", "context", "tok/s", "download", "")
_WAY, _TAKEN = 1, 7
_DROPPED = (_TAKEN, 6, 3, 2, 5)  # columns that a narrow screen goes without, the first ones first
_QUALITY_CELLS = 8
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_WIDEST_BAR = 72
_MARK = "●"
# Name, glyph and style of each part of the memory
_PARTS = (
    ("weights", "█", "memory.weights"),
    ("KV cache", "▓", "memory.cache"),
    ("workspace", "▒", "memory.work"),
    ("reserve", "╱", "memory.others"),
    ("free", "░", "memory.free"),
)


class PlanView:
    """What `rqchat plan` shows of a plan; it fits the screen that it is drawn on."""

    def __init__(
        self,
        plan: MemoryPlan,
        model_name: str,
        ways: Sequence[Alternative],
        downloads: Mapping[tuple[str, str], int] | None = None,
    ) -> None:
        """`downloads` has the bytes to download by hub id and weights."""
        self._plan, self._name, self._ways = plan, model_name, ways
        self._downloads = downloads or {}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        plan, width = self._plan, options.max_width
        yield Text(self._title(), style="name")
        yield Text()
        yield self._table(console, options)
        yield Text()
        yield from self._memory(width)
        yield Text()
        fits, *more = plan.reason.split("\n")
        yield Text(fits)
        for sentence in more:
            yield Text(sentence, style="note" if sentence.startswith("For that") else "")
        yield Text()
        yield Text(self._speed(), style="note")
        yield Text("--all shows every way, --json is for scripts, docs/memory.md explains", "note")

    def _title(self) -> str:
        device = self._plan.device
        total = format_bytes(device.total_bytes).replace(".0 ", " ")
        free = f", {device.free_bytes / 2**30:.1f} free" * (device.free_bytes < device.total_bytes)
        source = "" if device.is_gpu else f" {device.source}"
        return f"{model_title(self._name)} on {safe_line(device.name)} ({total}{source}{free})"

    def _table(self, console: Console, options: ConsoleOptions) -> RenderableType:
        """The rows, with as many columns as the screen is wide enough for."""
        rows = [self._cells(way) for way in self._ways]
        for count in range(len(_DROPPED) + 1):
            table = self._drawn(rows, _DROPPED[:count])
            # Measured as if there were no limit, or rich would squeeze the columns to fit
            if console.measure(table, options=options.update(width=1000)).maximum <= (
                options.max_width
            ):
                break
        return table

    def _drawn(self, rows: Sequence[tuple[str, ...]], dropped: Sequence[int]) -> Table:
        shown = [
            index
            for index in range(len(_HEADINGS))
            if index not in dropped and any(row[index] for row in rows)
        ]
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="note")
        for index in shown:
            numbers = _HEADINGS[index] in ("context", "tok/s", "download")
            table.add_column(_HEADINGS[index], justify="right" if numbers else "left", no_wrap=True)
        for row in rows:
            table.add_row(*(row[i] for i in shown), style="chosen" if row[0] else None)
        return table

    def _cells(self, way: Alternative) -> tuple[str, ...]:
        candidate = way.candidate
        taken = not way.model and candidate == self._plan.chosen
        formats = f"{_bits_of(candidate.weights, candidate.weight_bits)}, KV {candidate.kv_bits}"
        bytes_to_load = self._downloads.get((way.hub_name or self._name, candidate.weights), 0)
        return (
            _MARK if taken else "",
            f"{way.model.upper()}, {formats}" if way.model else formats,
            # No bar compares one model with another: nobody has measured that
            "" if way.model else _quality_bar(candidate.divergence),
            _quality(way),
            format_count(candidate.context_tokens),
            f"{candidate.tokens_per_s:.0f}" if candidate.tokens_per_s else "",
            format_bytes(bytes_to_load) if bytes_to_load else "",
            "taken" if taken else "",
        )

    def _memory(self, width: int) -> Iterator[Text]:
        """A bar of what is held and what is free, and its legend."""
        used, free = self._plan.chosen.bytes, self._plan.device.free_bytes
        sizes = (
            used.weights,
            used.kv_global + used.kv_sliding,
            used.workspace,
            used.reserve,
            max(free - used.total, 0),
        )
        cells = share_cells(sizes, min(width - 1, _WIDEST_BAR))
        in_gib = used.total >= 2 * 2**30
        bar, lines = Text(no_wrap=True), [Text()]
        for (part, sign, style), size, count in zip(_PARTS, sizes, cells, strict=True):
            bar.append(sign * count, style)
            amount = f"{size / 2**30:.1f}" if in_gib else format_bytes(size)
            unit = " GiB" if in_gib and part == _PARTS[-1][0] else ""
            entry = Text.assemble((sign, style), f" {part} {amount}{unit}")
            # Broken here, between entries
            if lines[-1].cell_len and lines[-1].cell_len + 2 + entry.cell_len > width:
                lines.append(Text())
            lines[-1].append("  " if lines[-1].cell_len else "").append_text(entry)
        yield bar
        yield from lines
        room = room_for(self._plan.chosen.context_tokens)
        yield Text(f"{room[0].upper()}{room[1:]}.")

    def _speed(self) -> str:
        device = self._plan.device
        if device.stands_for:
            return f"tok/s at most, if it is an {device.stands_for}; --bandwidth is for another"
        if device.bandwidth:
            return f"tok/s at most, at {device.bandwidth / 1e9:,.0f} GB/s of memory"
        return "--bandwidth GB/s shows tokens a second"


def _bits_of(weights: str, bits: int) -> str:
    plain = {"bf16": "16-bit", "fp32": "32-bit", f"int{bits}": f"{bits}-bit"}
    return plain.get(weights, weights)


def _quality(way: Alternative) -> str:
    if way.model:
        return "larger model" if way.is_larger else "smaller model"
    return loss_in_a_word(way.candidate.divergence)


def _quality_bar(divergence: float) -> str:
    """How much probability the text that 16 bits would write keeps, on the geometric mean."""
    eighths = round(math.exp(-divergence) * _QUALITY_CELLS * 8)
    full, rest = divmod(eighths, 8)
    return "█" * full + (_EIGHTHS[rest] if rest else "")
