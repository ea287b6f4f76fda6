"""Saved conversations on the screen: lists, findings, and one with its receipts."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rqchat.engine.conversations.receipt import Receipt
from rqchat.engine.conversations.records import TURN_MARKS, SessionRecord, TurnRecord
from rqchat.engine.conversations.records import Finding as FoundSession
from rqchat.ui.text import format_count, format_seconds, safe_line, safe_text

__all__ = [
    "conversation_view",
    "findings_list",
    "format_moment",
    "receipt_line",
    "sessions_table",
]


def sessions_table(sessions: Iterable[SessionRecord]) -> RenderableType:
    """One row each: id, when it was last used, how many turns, and what it is about."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading, width in (("id", 8), ("last used", 16)):
        table.add_column(heading, no_wrap=True, min_width=width)
    table.add_column("turns", justify="right", no_wrap=True, min_width=5)
    table.add_column("model", no_wrap=True, max_width=24)
    table.add_column("conversation", no_wrap=True, overflow="ellipsis")
    for session in sessions:
        label = Text(safe_line(session.label), style="name" if session.name else "")
        table.add_row(
            session.id,
            format_moment(session.updated_s),
            format_count(session.turns),
            Text(safe_line(session.model)),
            label,
        )
    return table


def findings_list(findings: Iterable[FoundSession]) -> RenderableType:
    """Each finding with the place below it."""
    lines: list[Text] = []
    for finding in findings:
        session = finding.session
        place = f", turn {finding.number} of {session.turns}" if finding.number else ""
        head = Text(f"{session.id}  {format_moment(session.updated_s)}{place}  ")
        head.append(safe_line(session.label), style="name")
        lines += [head, Text(f"    {safe_line(finding.excerpt)}", style="note")]
    return Group(*lines)


def conversation_view(session: SessionRecord, turns: Iterable[TurnRecord]) -> RenderableType:
    """A conversation as it was, with the receipt of each answer."""
    parts = [Text(safe_line(session.label), style="name")]
    about = f"{session.id}, begun {format_moment(session.created_s)}, {session.origin}"
    if session.forked_from:
        about += f", forked from {session.forked_from}"
    parts.append(Text(about, style="note"))
    if session.system:
        parts.append(Text(f"system: {safe_text(session.system)}", style="note"))
    for turn in turns:
        parts += [Text(), Text(f"{turn.number}> {safe_text(turn.question)}", style="name")]
        parts += [
            Text(f"[{item.kind} {safe_line(item.name)}, {item.size_bytes:,} bytes]", style="note")
            for item in turn.attachments
        ]
        if turn.answer:
            parts += [Text(), Text(safe_text(turn.answer))]
        if turn.state in TURN_MARKS:
            parts.append(Text(TURN_MARKS[turn.state], style="warning"))
        parts.append(Text(receipt_line(turn.receipt), style="note"))
    return Group(*parts)


def receipt_line(receipt: Receipt) -> str:
    """`pocket (sha256:0123), fp32, 4-bit KV aligned, seed 7, 120 tokens in 0.5 s; rqchat 0.1.0`."""
    sampling = receipt.sampling
    drawn = "greedy" if sampling.temperature == 0 else f"temperature {sampling.temperature:g}"
    parts = [
        f"{safe_line(receipt.model)} ({receipt.revision[:14]})",
        receipt.weights,
        f"{receipt.kv_bits}-bit KV {receipt.kv_mode}",
        drawn if sampling.temperature == 0 else f"{drawn}, seed {sampling.seed}",
    ]
    if receipt.tokens and receipt.timing:
        parts.append(
            f"{format_count(receipt.tokens.input)} + {format_count(receipt.tokens.output)} tokens"
            f" in {format_seconds(receipt.timing.prefill_s + receipt.timing.decode_s)}"
        )
    return f"{', '.join(parts)}; rqchat {receipt.rqchat}"


def format_moment(moment_s: float) -> str:
    """`2026-11-22 14:05`, local time."""
    return datetime.fromtimestamp(moment_s).strftime("%Y-%m-%d %H:%M")
