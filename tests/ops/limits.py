"""What a compiled kernel may take of a card, and the table of what kernels took."""

from __future__ import annotations

from typing import Any

# Bytes of shared memory that one block may have (CUDA C++ programming guide, compute capabilities).
SHARED_BYTES = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}


def faults(results: list[dict[str, Any]]) -> list[str]:
    """What no kernel may do: too much shared memory, anything spilled to the stack, float64."""
    found = []
    for one in results:
        name = f"{one['kernel']}, {one['case']}, sm_{one['card']}"
        if one["shared_bytes"] > SHARED_BYTES[one["card"]]:
            found.append(f"{name}: {one['shared_bytes']} bytes of shared memory")
        if one["stack_bytes"]:
            found.append(f"{name}: {one['stack_bytes']} bytes spilled")
        if one["float64"]:
            found.append(f"{name}: {one['float64']} float64 operands")
    return found


def table(results: list[dict[str, Any]]) -> str:
    """The largest figures of every kernel and case over the cards, widest first."""
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for one in results:
        rows.setdefault((one["kernel"], one["case"]), []).append(one)
    lines = [f"{'kernel':18} {'case':20} {'sm':24} shared  regs stack f64"]
    for (kernel, case), group in rows.items():
        cards = ",".join(str(one["card"]) for one in group)
        top = [
            max(one[field] for one in group)
            for field in ("shared_bytes", "registers", "stack_bytes", "float64")
        ]
        lines.append(
            f"{kernel:18} {case:20} {cards:24} {top[0]:6} {top[1]:5} {top[2]:5} {top[3]:3}"
        )
    return "\n".join(lines)
