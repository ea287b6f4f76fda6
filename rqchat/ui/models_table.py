"""The Gemma 4 models as rows: what of them fits, and what is there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rqchat.engine.planning.candidate import Candidate
from rqchat.engine.sizes import format_bytes
from rqchat.ui.text import format_count, safe_line

__all__ = ["ModelRow", "model_rows", "models_table"]


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model.

    Attributes:
        short_name: what people type; empty for other people's models.
        name: its hub id.
        plan: what would be taken of it; None where it does not fit, or nobody knows.
        here_bytes: what of it is on this machine.
    """

    short_name: str
    name: str
    plan: Candidate | None
    here_bytes: int

    def as_json(self) -> dict[str, Any]:
        """The object that `rqchat models --json` prints."""
        plan = self.plan.as_json() if self.plan else None
        return {
            "short_name": self.short_name,
            "model": self.name,
            "plan": plan,
            "bytes_here": self.here_bytes,
        }


def models_table(rows: Iterable[ModelRow], device: str) -> RenderableType:
    """One row a model, and how to go on."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("name", "model", f"on {safe_line(device)}", "on this machine"):
        table.add_column(heading, overflow="fold")
    for short, name, fits, here in model_rows(rows):
        style = "" if fits != _TOO_LARGE else "note"
        table.add_row(Text(short, style="name"), name, fits, here, style=style)
    return Group(table, Text("rqchat pull NAME downloads, rqchat models rm NAME removes", "note"))


_TOO_LARGE = "does not fit at 4 bits"


def model_rows(rows: Iterable[ModelRow]) -> Iterator[tuple[str, ...]]:
    """The same for other programs: nothing is cut to a width."""
    for row in rows:
        plan = row.plan
        fits = (
            f"{plan.weights}, {plan.kv_bits}-bit KV, {format_count(plan.context_tokens)} tokens"
            if plan
            else _TOO_LARGE
            if row.short_name
            else ""
        )
        here = format_bytes(row.here_bytes) if row.here_bytes else "-"
        yield row.short_name, safe_line(row.name), fits, here
