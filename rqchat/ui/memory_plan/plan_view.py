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
from rqchat.ui.text import format_count, safe_line

__all__ = ["PlanView"]

_HEADINGS = ("", "", "quality", "", "context", "tok/s", "download", "")
_WAY, _TAKEN = 1, 7
_DROPPED = (_TAKEN, 6, 3, 2, 5)  # columns that a narrow screen goes without, the first ones first
_QUALITY_CELLS = 8
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_WIDEST_BAR = 72
_TOKENS_A_PAGE = 437  # about 300 words
_MARK, _PLAIN_MARK = "●", ">"
# Name, glyph, glyph where there is ASCII alone, and style of each part of the memory
_PARTS = (
    ("weights", "█", "#", "name"),
    ("KV cache", "▓", "=", "good"),
    ("workspace", "▒", "-", ""),
    ("reserve", "░", ":", "note"),
    ("free", "·", ".", "note"),
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
        yield from self._memory(width, ascii_only=options.ascii_only)
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
        return f"{_display_name(self._name)} on {safe_line(device.name)} ({total}{source}{free})"

    def _table(self, console: Console, options: ConsoleOptions) -> RenderableType:
        """The rows, with as many columns as the screen is wide enough for."""
        rows = [self._cells(way, ascii_only=options.ascii_only) for way in self._ways]
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

    def _cells(self, way: Alternative, *, ascii_only: bool) -> tuple[str, ...]:
        candidate = way.candidate
        taken = not way.model and candidate == self._plan.chosen
        mark = _PLAIN_MARK if ascii_only else _MARK
        formats = f"{_bits_of(candidate.weights, candidate.weight_bits)}, KV {candidate.kv_bits}"
        bytes_to_load = self._downloads.get((way.hub_name or self._name, candidate.weights), 0)
        return (
            mark if taken else "",
            f"{way.model.upper()}, {formats}" if way.model else formats,
            # No bar compares one model with another: nobody has measured that
            "" if way.model else _quality_bar(candidate.divergence, ascii_only=ascii_only),
            _quality(way),
            format_count(candidate.context_tokens),
            f"{candidate.tokens_per_s:.0f}" if candidate.tokens_per_s else "",
            format_bytes(bytes_to_load) if bytes_to_load else "",
            "taken" if taken else "",
        )

    def _memory(self, width: int, *, ascii_only: bool) -> Iterator[Text]:
        """A bar of what is held and what is free, and its legend."""
        used, free = self._plan.chosen.bytes, self._plan.device.free_bytes
        sizes = (
            used.weights,
            used.kv_global + used.kv_sliding,
            used.workspace,
            used.reserve,
            max(free - used.total, 0),
        )
        cells = _shares(sizes, min(width - 1, _WIDEST_BAR))
        in_gib = used.total >= 2 * 2**30
        bar, lines = Text(no_wrap=True), [Text()]
        for (part, glyph, plain, style), size, count in zip(_PARTS, sizes, cells, strict=True):
            sign = plain if ascii_only else glyph
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
        tokens = self._plan.chosen.context_tokens
        pages = max(round(tokens / _TOKENS_A_PAGE, -1 if tokens > 20_000 else 0), 1)
        yield Text(f"Room for {format_count(tokens)} tokens, about {pages:,.0f} pages.")

    def _speed(self) -> str:
        device = self._plan.device
        if device.stands_for:
            return f"tok/s at most, if it is an {device.stands_for}; --bandwidth is for another"
        if device.bandwidth:
            return f"tok/s at most, at {device.bandwidth / 1e9:,.0f} GB/s of memory"
        return "--bandwidth GB/s shows tokens a second"


def _display_name(name: str) -> str:
    """`Gemma 4 31B` for Google's, else the name."""
    beginning = "google/gemma-4-"
    if not name.startswith(beginning):
        return safe_line(name)
    return f"Gemma 4 {name.removeprefix(beginning).removesuffix('-it')}"


def _bits_of(weights: str, bits: int) -> str:
    plain = {"bf16": "16-bit", "fp32": "32-bit", f"int{bits}": f"{bits}-bit"}
    return plain.get(weights, weights)


def _quality(way: Alternative) -> str:
    if way.model:
        return "larger model" if way.is_larger else "smaller model"
    return loss_in_a_word(way.candidate.divergence)


def _quality_bar(divergence: float, *, ascii_only: bool) -> str:
    """How much probability the text that 16 bits would write keeps, on the geometric mean."""
    eighths = round(math.exp(-divergence) * _QUALITY_CELLS * 8)
    if ascii_only:
        return "#" * round(eighths / 8)
    full, rest = divmod(eighths, 8)
    return "█" * full + (_EIGHTHS[rest] if rest else "")


def _shares(sizes: Sequence[int], cells: int) -> list[int]:
    """Cells of each size that add up to `cells`; what is there at all gets one."""
    total = max(sum(sizes), 1)
    shares = [max(size * cells // total, 1 if size else 0) for size in sizes]
    largest = shares.index(max(shares))
    shares[largest] += min(cells - sum(shares), 0)
    # What is left goes where most was cut off
    by_rest = sorted(range(len(sizes)), key=lambda i: -(sizes[i] * cells % total))
    for index in by_rest[: cells - sum(shares)]:
        shares[index] += 1
    return shares
