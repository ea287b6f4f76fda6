"""Plans, findings, statistics and help as tables, and the chat's status line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rqchat.engine.conversation import ContextPart
from rqchat.engine.events import Done
from rqchat.engine.planning.plan import MemoryPlan
from rqchat.engine.remote.address import shown_model
from rqchat.engine.sizes import format_bytes
from rqchat.ui.finding import Finding
from rqchat.ui.looks.bars import FULL
from rqchat.ui.text import format_count, format_seconds, safe_line

__all__ = [
    "chat_status",
    "context_table",
    "findings_table",
    "help_table",
    "settings_table",
    "stats_table",
]


_BAR_CELLS = 16


def findings_table(findings: Iterable[Finding]) -> RenderableType:
    """One row for each finding, with its remedy below."""
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
    if memory.planned_bytes:  # a server's is its own
        table.add_row(
            "memory",
            f"{format_bytes(memory.peak_bytes)} at the peak, "
            f"{format_bytes(memory.planned_bytes)} planned",
        )
    table.add_row("loaded", f"in {format_seconds(timing.load_s)}; seed {done.seed}")
    return table


def context_table(parts: Sequence[ContextPart], context_tokens: int) -> RenderableType:
    """Each part with its tokens and a bar, and the sum against what the context holds."""
    used = sum(part.tokens for part in parts)
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, min_width=8)
    table.add_column(no_wrap=True, justify="right", min_width=7)
    table.add_column(no_wrap=True, min_width=_BAR_CELLS)
    table.add_column()
    for part in parts:
        label = Text(safe_line(part.label) or "what the model's template adds", no_wrap=True)
        label.overflow = "ellipsis"
        bar = FULL * round(_BAR_CELLS * part.tokens / max(used, 1))
        table.add_row(part.kind, format_count(part.tokens), Text(bar, style="accent"), label)
    share = f"{100 * used / max(context_tokens, 1):.1f} %"
    free = format_count(max(context_tokens - used, 0))
    total = f"{format_count(used)} of {format_count(context_tokens)} tokens ({share}), {free} free"
    return Group(table, Text(total, style="name"))


def help_table(topics: Iterable[tuple[str, Iterable[tuple[str, str]]]]) -> RenderableType:
    """What is typed, and what it does, below the names of its topics."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for topic, rows in topics:
        table.add_row(Text(topic, style="accent"), "")
        for typed, meaning in rows:
            table.add_row(Text(f"  {typed}", style="name", overflow="fold"), Text(meaning))
    return table


def settings_table(rows: Iterable[tuple[str, str, str]]) -> RenderableType:
    """Name, value and source of each setting."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for name, value, source in rows:
        style = "note" if source == "default" else None
        table.add_row(
            Text(name, style="name"), Text(safe_line(value)), Text(safe_line(source)), style=style
        )
    return table


def chat_status(
    model_name: str,
    plan: MemoryPlan | None,
    used_tokens: int,
    used_bytes: int,
    tokens_per_s: float,
    columns: int,
    *,
    attached_tokens: int = 0,
    server_tokens: int = 0,
) -> str:
    """`pocket | bf16 | 4-bit KV | 1,234 of 32,768 tokens (3 %) | 0.6 GiB RAM | 87 tokens/s`.

    Of a model at a server, whose `plan` is None, formats and memory are not known; `server_tokens`
    is what its context holds, and 0 where that is not known either.

    With attachments it is `1,234 + 264 of ...`, and the share is of both.

    Where that is longer than `columns`, names and numbers are shorter, then parts are left out;
    the share of the context that is used goes last.
    """
    total_tokens = plan.chosen.context_tokens if plan else server_tokens
    percent = 100 * (used_tokens + attached_tokens) // max(total_tokens, 1)
    more = f" + {format_count(attached_tokens)}" if attached_tokens else ""
    used = f"{format_count(used_tokens)}{more} of {format_count(total_tokens)} tokens ({percent} %)"
    briefly = f"{_in_k(used_tokens + attached_tokens)} of {_in_k(total_tokens)} ({percent}%)"
    if not total_tokens:
        used = briefly = f"{format_count(used_tokens)}{more} tokens"
    formats: tuple[str, ...] = ()
    memory: tuple[str, ...] = ()
    if plan is not None:
        formats = (plan.chosen.weights, f"{plan.chosen.kv_bits}-bit KV")
        memory = (f"{format_bytes(used_bytes)} {'VRAM' if plan.device.is_gpu else 'RAM'}",)
    model_name = shown_model(model_name)
    rate = f"{tokens_per_s:.0f} tok" if tokens_per_s else ""
    brief_rate, whole_rate = ((f"{rate}/s",), (f"{rate}ens/s",)) if rate else ((), ())
    name = model_name.rstrip("/").rpartition("/")[2]
    forms = (
        (model_name, *formats, used, *memory, *whole_rate),
        (name, *formats, used, *memory, *whole_rate),
        (name, *formats, briefly, *memory, *brief_rate),
        (name, *formats, briefly, *memory),
        (name, *formats, briefly),
        (name, briefly),
    )
    lines = [" | ".join(form) for form in forms]
    return next((line for line in lines if cell_len(line) <= columns), lines[-1])


def _in_k(count: int) -> str:
    """`262,144` as `256K`, and small numbers as they are."""
    return f"{round(count / 1024)}K" if count >= 10_000 else format_count(count)
