"""What a packed cache costs, as a table."""

from __future__ import annotations

from rich.console import RenderableType
from rich.table import Table

from rqchat.engine.measure.fidelity_record import Fidelity
from rqchat.ui.text import format_count, safe_line

__all__ = ["fidelity_table"]


def fidelity_table(found: Fidelity) -> RenderableType:
    """The floor and the planned cache, one row each; bytes are those of a packed token."""
    known = f"calibration {found.calibration}" if found.calibration else "no calibration"
    title = (
        f"{safe_line(found.model)} ({found.weights}), {format_count(found.scored_tokens)} tokens"
        f" compared, {known}"
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), title=title, title_justify="left")
    table.add_column("KV cache", no_wrap=True)
    for heading in ("bytes", "mean KLD", "median", "99 %", "top-1", "perplexity"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in (found.floor, found.planned):
        table.add_row(
            row.name,
            f"{row.token_bytes:,.0f}" if row.token_bytes else "",
            *(f"{value:.2g}" for value in (row.mean, row.median, row.high)),
            f"{row.top_1:.2%}",
            f"{row.perplexity:.4g}",
        )
    return table
