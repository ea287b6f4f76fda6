"""Plans, findings, statistics and help as tables, and the chat's status line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from rqchat.engine.events import Done
from rqchat.engine.plan import Candidate
from rqchat.ui.text import format_bytes, format_count, format_seconds, safe_line

__all__ = [
    "Finding",
    "chat_status",
    "findings_table",
    "help_table",
    "settings_table",
    "stats_table",
]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that `rqchat doctor` looked at.

    Attributes:
        name: what it is, such as `torch`.
        state: `ok`, `note` (works, could be better) or `broken` (rqchat cannot work).
        detail: what was found.
        remedy: the command or step that mends it; empty where nothing needs mending.
    """

    name: str
    state: Literal["ok", "note", "broken"]
    detail: str
    remedy: str = ""


def findings_table(findings: Iterable[Finding]) -> RenderableType:
    """One row per finding, what mends it below."""
    marks = {"ok": ("ok", "good"), "note": ("note", "warning"), "broken": ("broken", "bad")}
    table = Table.grid(padding=(0, 2, 0, 0))
    for finding in findings:
        mark, style = marks[finding.state]
        table.add_row(Text(mark, style=style), Text(finding.name), Text(safe_line(finding.detail)))
        if finding.remedy:
            table.add_row("", "", Text(f"-> {finding.remedy}"))
    return table


def stats_table(done: Done) -> RenderableType:
    """Tokens, seconds, rates and memory of one answer."""
    tokens, timing, memory = done.tokens, done.timing, done.memory
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_row(
        "read",
        f"{format_count(tokens.input)} tokens ({format_count(tokens.image)} of pictures, "
        f"{format_count(tokens.cached)} cached) in {format_seconds(timing.prefill_s)}, "
        f"{timing.prefill_tokens_per_s:,.0f} tokens/s",
    )
    table.add_row(
        "wrote",
        f"{format_count(tokens.output)} tokens in {format_seconds(timing.decode_s)}, "
        f"{timing.decode_tokens_per_s:,.1f} tokens/s; stopped by {done.stop_reason}",
    )
    table.add_row(
        "memory",
        f"{format_bytes(memory.peak_bytes)} at the peak, "
        f"{format_bytes(memory.planned_bytes)} planned",
    )
    table.add_row("loaded", f"in {format_seconds(timing.load_s)}; seed {done.seed}")
    return table


def help_table(rows: Iterable[tuple[str, str]]) -> RenderableType:
    """What is typed, and what it does."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for typed, meaning in rows:
        table.add_row(Text(typed, style="name"), Text(meaning))
    return table


def settings_table(rows: Iterable[tuple[str, object, str]]) -> RenderableType:
    """Name, value and source of each setting; what is not set is a dash."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for name, value, source in rows:
        shown = (
            "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        )
        style = "note" if source == "default" else None
        table.add_row(
            Text(name, style="name"), Text(safe_line(shown)), Text(safe_line(source)), style=style
        )
    return table


def chat_status(
    model_name: str,
    chosen: Candidate,
    used_tokens: int,
    context_tokens: int,
    tokens_per_s: float | None,
) -> str:
    """`pocket | bf16 | 4-bit KV | 1,234 of 32,768 tokens (3 %) | 87 tokens/s`."""
    percent = 100 * used_tokens // max(context_tokens, 1)
    parts = [
        model_name,
        chosen.weights,
        f"{chosen.kv_bits}-bit KV",
        f"{format_count(used_tokens)} of {format_count(context_tokens)} tokens ({percent} %)",
    ]
    if tokens_per_s:
        parts.append(f"{tokens_per_s:.0f} tokens/s")
    return " | ".join(parts)
