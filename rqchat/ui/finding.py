"""One thing that `rqchat doctor` looked at; apart, so that making one needs no screen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that `rqchat doctor` looked at.

    Attributes:
        name: what it is, such as `torch`.
        state: `ok`, `note` (works, could be better) or `broken` (rqchat cannot work).
        detail: what was found.
        remedy: the command or step that repairs it; empty where nothing needs repair.
    """

    name: str
    state: Literal["ok", "note", "broken"]
    detail: str
    remedy: str = ""
