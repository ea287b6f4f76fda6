"""How each rung of the ladder keeps a linear layer."""

from __future__ import annotations

import torch

from rqchat.engine.weights.grid import INT2, INT4, INT8_ROWS, Grid

__all__ = ["DTYPES", "GRIDS"]

GRIDS: dict[str, Grid] = {"int8": INT8_ROWS, "int4": INT4, "int2": INT2}
"""Rungs of packed matrices; bitsandbytes makes the layers of all others that have codes."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Rungs without codes."""
