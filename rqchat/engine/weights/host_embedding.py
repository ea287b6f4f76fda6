"""A table of embeddings in main memory, of which a GPU takes the rows that it needs."""

from __future__ import annotations

import contextlib
import weakref
from types import ModuleType
from typing import Any

import torch
from torch import nn

from rotorquant.one_device import current_device
from rqchat.engine.weights.grid import Packed
from rqchat.engine.weights.kernels.multiply import on_gpu
from rqchat.errors import ModelError

__all__ = ["HostEmbedding", "lock_pages"]

_kernel: ModuleType | None = None
if torch.backends.cuda.is_built():
    with contextlib.suppress(ImportError):
        from rqchat.engine.weights.kernels import gather as _kernel


class HostEmbedding(nn.Module):
    """Gemma's scaled embedding over a table in main memory: dense, or packed with 8 bits.

    Attributes:
        table: [vocabulary, hidden] in the model's dtype, or words [vocabulary, hidden / 4] int32.
        row_scale: [vocabulary, 1] of a packed one, or None.
        embed_scale: the factor of what comes out, on the device.
    """

    table: torch.Tensor
    row_scale: torch.Tensor | None
    embed_scale: torch.Tensor

    def __init__(
        self, table: torch.Tensor | Packed, embed_scale: torch.Tensor, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self._dtype = dtype
        self._grid = table.grid if isinstance(table, Packed) else None
        self.register_buffer("table", table.words if isinstance(table, Packed) else table)
        self.register_buffer("row_scale", table.scale if isinstance(table, Packed) else None)
        self.register_buffer("embed_scale", embed_scale, persistent=False)

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """What lies in main memory."""
        return (self.table,) if self.row_scale is None else (self.table, self.row_scale)

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Rows [..., hidden] of the table for token ids [...], on their device."""
        ids = token_ids.flatten()
        rows = _taken(self.table, ids)
        if self._grid is not None and self.row_scale is not None:
            rows = Packed(self._grid, rows, _taken(self.row_scale, ids)).dequantize(self._dtype)
        return rows.view(*token_ids.shape, -1) * self.embed_scale.to(self._dtype)


def _taken(table: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    if _kernel is not None and on_gpu(ids):
        with current_device(ids.device):
            rows: torch.Tensor = _kernel.gather_rows(table, ids)
        return rows
    # The host waits for the ids here, which no captured step could
    return table[ids.to(table.device)].to(ids.device)


def lock_pages(tensor: torch.Tensor, name: str) -> None:
    """Keeps a tensor where it lies in main memory, so that a GPU can read it, as long as it lives.

    Not torch's pinned memory, which takes the next power of two: 4 GiB for 2.2.

    Raises:
        ModelError: the driver does not.
    """
    address = tensor.data_ptr()
    driver: Any = torch.cuda.cudart()
    failed = int(driver.cudaHostRegister(address, tensor.nbytes, 0))
    if failed:
        raise ModelError(
            f"{name} keeps {tensor.nbytes / 2**30:.1f} GiB in main memory, which the GPU's driver"
            f" refuses to lock there (error {failed}); close other programs, or take fewer bits"
            " with --weights or --head-bits"
        )
    weakref.finalize(tensor, driver.cudaHostUnregister, address).atexit = False
