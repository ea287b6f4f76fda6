"""What `nvidia-smi` may print of cards that are shared out, broken, or of a kind yet to come."""

from __future__ import annotations

import random
from pathlib import Path

from rqchat.engine.planning.gpu_troubles import driver_trouble, memory_trouble
from rqchat.engine.planning.gpus import parse_nvidia_smi

__all__ = ["try_one"]

_CELLS = (
    *(
        "0",
        "1",
        "24576",
        "24000",
        "8.6",
        "[N/A]",
        "N/A",
        "[Not Supported]",
        "[Unknown Error]",
        "ERR!",
    ),
    *(
        "[Insufficient Permissions]",
        "[GPU requires reset]",
        "",
        "-1",
        "²",
        "１２",
        "9" * 5000,
        "1e9",
    ),
    *(
        "GPU-aaaa1111",
        "NVIDIA GB10",
        "Orin (nvgpu)",
        "NVIDIA RTX 3090",
        "a, b",
        "\x1b[2J",
        "\udce9",
    ),
)
_SAID = (
    "Failed to initialize NVML: Driver/library version mismatch",
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.",
    "No devices were found",
    "\x00\xff",
    "",
)


def try_one(rng: random.Random, folder: Path) -> None:
    """Rows are cards with memory, or are left out; every failure is named with what mends it."""
    rows = [
        ", ".join(rng.choice(_CELLS) for _ in range(rng.choice((6, 6, 6, 1, 7))))
        for _ in range(rng.randint(0, 5))
    ]
    users = [", ".join(rng.choice(_CELLS) for _ in range(3)) for _ in range(rng.randint(0, 3))]
    visible = rng.choice((None, (), ("0",), ("GPU-aaaa",), ("7", "\udce9")))
    for card in parse_nvidia_smi("\n".join(rows), visible, "\n".join(users)):
        assert card.total_bytes > 0 and card.free_bytes >= 0
    for trouble in (driver_trouble(rng.choice(_SAID)), memory_trouble(*rng.sample(_CELLS, 2))):
        assert trouble.detail and trouble.remedy
