"""The matrices of a decoder: its linear layers, and the experts of a mixture. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Matrices", "mixture_fields"]


@dataclass(frozen=True, slots=True)
class Matrices:
    """`count` linear layers of `rows` outputs and `columns` inputs each.

    A token reads `read` of them: all, but for a mixture's experts.
    """

    rows: int
    columns: int
    count: int
    read: int

    @property
    def weights(self) -> int:
        """All of them."""
        return self.count * self.rows * self.columns


def mixture_fields(text: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """The fields of `ModelShape` that describe experts; every layer has some, or none has."""
    if not text.get("enable_moe_block", False):
        return {"experts": (), "top_experts": 0, "routers": 0}
    hidden, inner = int(text["hidden_size"]), int(text["moe_intermediate_size"])
    experts, top = int(text["num_experts"]), int(text["top_k_experts"])
    sizes = (2 * inner, hidden), (hidden, inner)
    return {
        "experts": tuple(Matrices(*size, layers * experts, layers * top) for size in sizes),
        "top_experts": top,
        "routers": layers * hidden * experts,
    }
