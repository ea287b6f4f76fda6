"""Plans, findings, statistics and help as tables, and the chat's status line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rqchat.engine.events import Done
from rqchat.engine.plan import Candidate, MemoryPlan
from rqchat.ui.text import format_bytes, format_count, format_seconds, safe_line

__all__ = [
    "Finding",
    "chat_status",
    "findings_table",
    "help_table",
    "plan_table",
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


def plan_table(plan: MemoryPlan, model_name: str) -> RenderableType:
    """All candidates with the chosen one marked, and the reason below."""
    device = plan.device
    title = Text(
        f"{safe_line(model_name)} on {safe_line(device.name)}: {format_bytes(device.free_bytes)}"
        f" free of {format_bytes(device.total_bytes)} ({device.source})",
        style="name",
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    table.add_column("weights")
    for heading in ("KV bits", "context", "weights", "KV cache", "workspace", "reserve", "total"):
        table.add_column(heading, justify="right", no_wrap=True)
    for candidate in plan.candidates:
        is_chosen = candidate == plan.chosen
        style = "chosen" if is_chosen else None
        table.add_row(">" if is_chosen else "", *_candidate_cells(candidate), style=style)
    return Group(title, Text(), table, Text(), Text(plan.reason))


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


def _candidate_cells(candidate: Candidate) -> tuple[str, ...]:
    used = candidate.bytes
    sizes = (
        used.weights,
        used.kv_global + used.kv_sliding,
        used.workspace,
        used.reserve,
        used.total,
    )
    return (
        candidate.weights,
        str(candidate.kv_bits),
        format_count(candidate.context_tokens),
        *(format_bytes(size) for size in sizes),
    )
