"""What is kept of long documents, as a table."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from rqchat.engine.document_cache.cache_folder import CacheEntry
from rqchat.engine.sizes import format_bytes
from rqchat.ui.text import format_count, safe_line

__all__ = ["kept_rows", "kept_table"]


def kept_table(entries: Iterable[CacheEntry]) -> RenderableType:
    """One row an entry."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("name", no_wrap=True, min_width=12)
    table.add_column("of")  # the columns that may wrap are those that rich makes narrower
    for heading, width in (("tokens", 7), ("size", 6), ("KV bits", 7)):
        table.add_column(heading, justify="right", no_wrap=True, min_width=width)
    table.add_column("model")
    table.add_column("last used", no_wrap=True, min_width=12)
    for name, of, *figures, model, used in kept_rows(entries):
        table.add_row(name, _one_line(of), *figures, _one_line(model), used)
    return table


def kept_rows(entries: Iterable[CacheEntry]) -> Iterator[tuple[str, ...]]:
    """The same for other programs: nothing is cut to a width."""
    for entry in entries:
        label = entry.label
        yield (
            entry.name,
            ", ".join(label.names) if label and label.names else "a conversation",
            format_count(entry.tokens),
            format_bytes(entry.size_bytes),
            str(label.kv_bits) if label else "?",
            f"{label.model} ({label.weights})" if label else "?",
            time.strftime("%d %b %H:%M", time.localtime(entry.used_s)),
        )


def _one_line(text: str) -> Text:
    return Text(safe_line(text), no_wrap=True, overflow="ellipsis")
