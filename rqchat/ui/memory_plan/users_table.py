"""Cards that several users of one model need, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from rqchat.engine.outgrown.vllm_memory import Cards
from rqchat.engine.sizes import format_bytes
from rqchat.ui.text import format_count

__all__ = ["card_title", "users_table"]


def users_table(ways: Sequence[Cards], taken: Cards) -> RenderableType:
    """One row for each kind of card; the one that the commands are for is marked."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_row(
        *("", "cards", "servers", "weights", "KV of users", "work", "tok/s each"),
        style="note",
    )
    for way in ways:
        split = f"{way.tensor_parallel}" + (f" x {way.stages}" if way.stages > 1 else "")
        table.add_row(
            Text(card_title(way), style="name" if way == taken else ""),
            format_count(way.count),
            f"{way.replicas} of {split}",
            *(format_bytes(size) for size in (way.weight_bytes, way.kv_bytes, way.step_bytes)),
            f"{way.tokens_per_s:.0f}" if way.tokens_per_s else "-",
        )
    return table


def card_title(way: Cards) -> str:
    """`24.0 GiB (RTX 4090)`."""
    name = way.card.removeprefix("NVIDIA ").partition("-")[0]
    size = format_bytes(way.card_bytes)
    return f"{size} ({name})" if name else size
