"""Conversations as Markdown, and as records that other programs read."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rqchat.engine.conversations.records import TURN_MARKS, Finding, SessionRecord, TurnRecord

if TYPE_CHECKING:  # lists are to start fast, without pillow
    from rqchat.engine.conversation import UserTurn

__all__ = ["as_markdown", "finding_record", "session_record", "turn_record", "whole_record"]

_FORMAT = 1


def session_record(session: SessionRecord) -> dict[str, Any]:
    """What `sessions list --json` prints; moments as ISO 8601 in UTC."""
    record = asdict(session)
    record["created"] = _iso(record.pop("created_s"))
    record["updated"] = _iso(record.pop("updated_s"))
    return record


def finding_record(finding: Finding) -> dict[str, Any]:
    """What `sessions search --json` prints."""
    found = {"turn": finding.number, "excerpt": finding.excerpt}
    return session_record(finding.session) | found


def turn_record(turn: TurnRecord) -> dict[str, Any]:
    """One turn of `sessions show --json`; its attachments by hash."""
    record = asdict(turn)
    del record["id"]
    record["asked"] = _iso(record.pop("asked_s"))
    return record


def whole_record(
    session: SessionRecord, turns: Sequence[TurnRecord], asked: Sequence[UserTurn]
) -> dict[str, Any]:
    """A session with all that was attached, as `asked` holds it: text, and pictures in base 64."""
    records = []
    for turn, loaded in zip(turns, asked, strict=True):
        record = turn_record(turn)
        contents = [{"text": document.text} for document in loaded.documents]
        contents += [{"base64": b64encode(each.data).decode()} for each in loaded.pictures]
        attachments = zip(record["attachments"], contents, strict=True)
        records.append(record | {"attachments": [kept | more for kept, more in attachments]})
    return {"format": _FORMAT} | session_record(session) | {"turns": records}


def as_markdown(session: SessionRecord, turns: tuple[TurnRecord, ...]) -> str:
    """A session to read: questions, what came with them, answers. No thoughts."""
    parts = [f"# {session.label}", f"{_local(session.created_s)}, {session.model}"]
    if session.system:
        parts += ["## System", session.system]
    for turn in turns:
        attached = [
            f"- {item.kind} {item.name} ({item.size_bytes:,} bytes)" for item in turn.attachments
        ]
        parts += ["## You", "\n".join(attached), turn.question]
        mark = TURN_MARKS.get(turn.state)
        parts += ["## Model", turn.answer, f"*{mark}*" if mark else ""]
    return "\n\n".join(part.strip("\n") for part in parts if part.strip()) + "\n"


def _iso(moment_s: float) -> str:
    return datetime.fromtimestamp(moment_s, UTC).isoformat(timespec="seconds")


def _local(moment_s: float) -> str:
    return datetime.fromtimestamp(moment_s).strftime("%Y-%m-%d %H:%M")
