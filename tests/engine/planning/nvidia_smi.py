"""What nvidia-smi prints of three cards, and of the programs on them."""

from __future__ import annotations

__all__ = ["PROGRAMS", "TABLE"]

TABLE = """0, GPU-aaaa1111, NVIDIA GeForce RTX 3090, 24576, 24000, 8.6
1, GPU-bbbb2222, NVIDIA H100 80GB HBM3, 81559, 1000, 9.0
2, GPU-cccc3333, NVIDIA Something, [N/A], [N/A], [N/A]
"""
PROGRAMS = """GPU-bbbb2222, /usr/bin/trainer, 80000
GPU-aaaa1111, /usr/lib/firefox, 300
GPU-aaaa1111, [Insufficient Permissions], [N/A]
"""
