"""Sizes in bytes as people read them: powers of 1024, as graphics cards are sold. No torch."""

from __future__ import annotations

__all__ = ["format_bytes", "gib"]


def format_bytes(size_bytes: int) -> str:
    """`24.0 GiB`, `512 MiB`, `84 KiB`."""
    if size_bytes >= 2**30:
        return f"{size_bytes / 2**30:.1f} GiB"
    if size_bytes >= 2**20:
        return f"{size_bytes / 2**20:.0f} MiB"
    return f"{size_bytes / 2**10:.0f} KiB"


def gib(size_bytes: int) -> str:
    """`23.87 GiB`, where what is missing may be a few MiB."""
    return f"{size_bytes / 2**30:.2f} GiB"
