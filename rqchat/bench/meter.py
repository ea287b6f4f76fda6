"""Bytes of all tensors that live at the same time, on any device and through any library.

A process's resident size holds the interpreter and what allocators keep; this holds neither, so a
plan can be compared with it to the byte.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

__all__ = ["AllocatorMeter", "TensorMeter", "meter_of"]


def meter_of(device: torch.device) -> AllocatorMeter | TensorMeter:
    """The meter that counts the tensors on `device`."""
    return AllocatorMeter() if device.type == "cuda" else TensorMeter()


class AllocatorMeter:
    """What `TensorMeter` counts, from torch's allocator on a GPU, which knows all of it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing was begun."""

    @property
    def live_bytes(self) -> int:
        """Bytes of the tensors that live now."""
        return torch.cuda.memory_allocated()

    @property
    def peak_bytes(self) -> int:
        """The most that this has been since `restart`."""
        return torch.cuda.max_memory_allocated()

    @property
    def peak_reserved_bytes(self) -> int:
        """The most that the allocator has had of the card since `restart`."""
        return torch.cuda.max_memory_reserved()

    def restart(self) -> None:
        """Forgets the peak so far."""
        torch.cuda.reset_peak_memory_stats()

    def count(self, tensors: Iterable[torch.Tensor]) -> None:
        """Does nothing: the allocator has counted them."""

    def ignoring(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """`run` as it is: what lies on the host is never counted here."""
        return run


class TensorMeter(TorchDispatchMode):
    """Within it, every storage that an operator returns counts until it is freed.

    Attributes:
        live_bytes: of the storages seen that live now.
        peak_bytes: the most that this has been since `restart`.
        peak_reserved_bytes: 0, as nothing is kept for later tensors.
    """

    peak_reserved_bytes = 0

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes = self.peak_bytes = 0
        self._seen: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def restart(self) -> None:
        """Forgets the peak so far."""
        self.peak_bytes = self.live_bytes

    def count(self, tensors: Iterable[torch.Tensor]) -> None:
        """Counts tensors that came to be without an operator, such as those of a file."""
        for tensor in tensors:
            self._see(tensor.untyped_storage())

    def ignoring(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """`run`, whose new tensors are not counted: on a GPU they would lie on the host."""

        def unseen(*args: Any, **kwargs: Any) -> Any:
            with _disable_current_modes():
                return run(*args, **kwargs)

        return unseen

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
        # Addresses are given out again: the weak reference says whether this storage is the same.
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
