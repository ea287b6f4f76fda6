"""Bytes of all tensors that live at the same time, on any device and through any library.

A process's resident size holds the interpreter and what allocators keep; this holds neither, so a
plan can be compared with it to the byte.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["TensorMeter"]


class TensorMeter(TorchDispatchMode):
    """Within it, every storage that an operator returns counts until it is freed.

    Attributes:
        live_bytes: of the storages seen that live now.
        peak_bytes: the most that this has been since `restart`.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes = self.peak_bytes = 0
        self._seen: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def restart(self) -> None:
        """Forget the peak so far."""
        self.peak_bytes = self.live_bytes

    def count(self, tensors: Iterable[torch.Tensor]) -> None:
        """Counts tensors that came to be without an operator, such as those of a file."""
        for tensor in tensors:
            self._see(tensor.untyped_storage())

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if isinstance(leaf, torch.Tensor) and not leaf.is_meta:
                self._see(leaf.untyped_storage())
        return output

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        known = self._seen.get(key)
        if known is not None and known() is not None:
            return

        def gone(reference: Any) -> None:
            self.live_bytes -= size
            if self._seen.get(key) is reference:
                del self._seen[key]

        self._seen[key] = weakref.ref(storage, gone)
        self.live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
