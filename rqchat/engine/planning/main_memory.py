"""The main memory that this process may use."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["main_memory_bytes"]


def main_memory_bytes() -> tuple[int, int]:
    """Total and available bytes, within the limit of a container."""
    total, free = _system_bytes(Path("/proc/meminfo"))
    # In a container this is its own group; outside, the root has no such files.
    limit, used = _cgroup_bytes(Path("/sys/fs/cgroup"))
    if limit is not None:  # a container's limit does not show in /proc/meminfo
        total, free = min(total, limit), min(free, max(limit - used, 0))
    return total, free


def _system_bytes(meminfo: Path) -> tuple[int, int]:
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        total, free = (int(lines[key].split()[0]) for key in ("MemTotal", "MemAvailable"))
        return total * 1024, free * 1024
    except (OSError, KeyError, ValueError):
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return total, total // 2  # nothing else says what is available; a careful guess


def _cgroup_bytes(folder: Path) -> tuple[int | None, int]:
    """Limit (None without one) and use of this control group, version 2.

    Files that were read stay in `memory.current` until the memory is wanted. What the kernel calls
    their inactive part is left out, as Kubernetes and Docker do for a "working set".
    """
    try:
        limit = int((folder / "memory.max").read_text())
        used = int((folder / "memory.current").read_text())
    except (OSError, ValueError):
        return None, 0
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
        given_back = int(dict(line.split() for line in lines)["inactive_file"])
    except (OSError, ValueError, KeyError):
        given_back = 0
    return limit, max(used - given_back, 0)
