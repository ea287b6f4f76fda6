"""A memory plan as a table: the ladder of what fits, the row that is taken, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.console import (
    Console,
    ConsoleOptions,
    Group,
    JustifyMethod,
    RenderableType,
    RenderResult,
)
from rich.table import Table
from rich.text import Text

from rqchat.engine.planning.formats import KV_ERROR, weights_of
from rqchat.engine.planning.plan import Candidate, MemoryPlan
from rqchat.engine.sizes import format_bytes
from rqchat.ui.text import format_count, safe_line

__all__ = ["plan_table"]

_HEADINGS = (
    *("", "weights", "head", "KV", "context"),
    *("weights", "cache", "rest", "total", "tok/s", "download"),
)
_DROPPED = (10, 9, 7, 6, 5, 2)  # columns that a narrow screen goes without, the first ones first


def plan_table(
    plan: MemoryPlan, model_name: str, downloads: Mapping[str, int] | None = None
) -> RenderableType:
    """All candidates with the chosen one marked, the reason, and what the figures mean.

    `downloads` has the bytes to download for each kind of weights.
    """
    device = plan.device
    title = Text(
        f"{safe_line(model_name)} on {safe_line(device.name)}: {format_bytes(device.free_bytes)}"
        f" free of {format_bytes(device.total_bytes)} ({device.source})",
        style="name",
    )
    unit, name = (2**30, "GiB") if plan.chosen.bytes.total >= 10 * 2**30 else (2**20, "MiB")
    rows = [
        (
            ">" if candidate == plan.chosen else "",
            *_cells(candidate, unit, (downloads or {}).get(candidate.weights, 0)),
        )
        for candidate in plan.candidates
    ]
    notes = Text("\n".join(_notes(plan, name)), style="note")
    return Group(title, Text(), _Ladder(rows), Text(), Text(plan.reason), Text(), notes)


class _Ladder:
    """The table, with as many of its columns as the screen is wide enough for."""

    def __init__(self, rows: Sequence[tuple[str, ...]]) -> None:
        self._rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for count in range(len(_DROPPED) + 1):
            # Measured as if there were no limit, or rich would squeeze the columns to fit
            table = self._table(_DROPPED[:count])
            if console.measure(table, options=options.update(width=1000)).maximum <= (
                options.max_width
            ):
                break
        yield table

    def _table(self, dropped: Sequence[int]) -> Table:
        shown = [index for index in range(len(_HEADINGS)) if index not in dropped]
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for index in shown:
            justify: JustifyMethod = "right" if index > 1 else "left"
            table.add_column(_HEADINGS[index], justify=justify, no_wrap=True)
        for row in self._rows:
            style = "chosen" if row[0] else None
            table.add_row(*(row[index] for index in shown), style=style)
        return table


def _cells(candidate: Candidate, unit: int, download_bytes: int) -> tuple[str, ...]:
    used = candidate.bytes
    cache, rest = used.kv_global + used.kv_sliding, used.workspace + used.reserve
    digits = 1 if unit == 2**30 else 0
    return (
        candidate.weights,
        str(candidate.head_bits),
        str(candidate.kv_bits),
        format_count(candidate.context_tokens),
        *(f"{size / unit:.{digits}f}" for size in (used.weights, cache, rest, used.total)),
        f"{candidate.tokens_per_s:.0f}" if candidate.tokens_per_s else "?",
        format_bytes(download_bytes) if download_bytes else "-",
    )


def _notes(plan: MemoryPlan, unit: str) -> Iterator[str]:
    """What the columns hold, and what is lost by the formats that are shown."""
    read, device = format_bytes(plan.chosen.read_bytes), plan.device
    speed = f"{device.bandwidth / 1e9:,.0f} GB/s of memory"
    if device.stands_for:
        speed += f", if it is an {device.stands_for} (--bandwidth for another),"
    elif not device.bandwidth:
        speed = "the speed of memory, which is not known here (--bandwidth says it),"
    yield (
        f"{unit} of memory; rest is workspace and reserve. head and KV are bits. tok/s, with a full"
        f" context, at most: {speed} over what a token reads, {read} in the chosen row."
    )
    yield f"Prompts are read {format_count(plan.chosen.chunk_tokens)} tokens at a time."
    weights = dict.fromkeys(candidate.weights for candidate in plan.candidates)
    losses = [f"{name}: {weights_of(name).loss}" for name in weights]
    yield f"Loss by weights: {'; '.join(losses)}."
    bits = sorted({candidate.kv_bits for candidate in plan.candidates} - {16}, reverse=True)
    if bits:
        errors = ", ".join(f"{KV_ERROR[b]:.2g} at {b} bits" for b in bits)
        yield (
            f"Loss by KV: relative squared error {errors} (Lloyd-Max); 'rqchat verify' measures"
            " answers."
        )
