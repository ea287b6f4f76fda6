"""What a GPU refuses or waits for, found on torch's meta device, which stands for it.

Host tensors are those of the CPU. A GPU refuses operations in which the two meet, and the host
waits wherever it reads a number of the device, and in every copy between the two that is not
`non_blocking`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["DeviceRules"]

_MAKE = torch.tensor
_COPIES = {"aten::_to_copy", "aten::copy_"}
# Their results have sizes, or values, that only the device knows
_READS = {
    *("aten::_local_scalar_dense", "aten::item", "aten::nonzero", "aten::masked_select"),
    *("aten::equal", "aten::_unique2", "aten::unique_dim", "aten::is_nonzero"),
}


class DeviceRules(TorchDispatchMode):
    """Fails where host and device meet, or where the host waits.

    Attributes:
        to_host_bytes: copied from the device so far.
        to_device_bytes: copied there.
        waiting: whether waits are allowed at present.
    """

    def __init__(self) -> None:
        super().__init__()
        self.to_host_bytes = self.to_device_bytes = 0
        self.waiting = False
        self._making = patch.object(torch, "tensor", self._made)

    def __enter__(self) -> Self:
        self._making.start()
        return super().__enter__()

    def __exit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> None:
        super().__exit__(exc_type, exc_val, exc_tb)
        self._making.stop()

    @contextmanager
    def waits(self) -> Iterator[None]:
        """Here the host may wait."""
        self.waiting = True
        try:
            yield
        finally:
            self.waiting = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.name().split(".")[0]
        if name in _COPIES:
            return self._copy(func, name, args, kwargs)
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        on_device = [each.is_meta for each in tensors]
        # A number of the host may go along with tensors of the device.
        assert not any(on_device) or all(
            there or each.ndim == 0 for there, each in zip(on_device, tensors, strict=True)
        ), f"host and device meet in {func.name()}"
        index = args[1] if name in ("aten::index", "aten::index_put_", "aten::index_put") else ()
        masked = any(each is not None and each.dtype == torch.bool for each in index)
        if any(on_device) and (masked or name in _READS):
            self.wait(func.name())
        return func(*args, **kwargs)

    def _copy(self, func: Any, name: str, args: Any, kwargs: Mapping[str, Any]) -> Any:
        into = name == "aten::copy_"
        source = args[1] if into else args[0]
        target = args[0].device if into else torch.device(kwargs.get("device") or source.device)
        if source.is_meta == (target.type == "meta"):
            return func(*args, **kwargs)
        if not (args[2] if into and len(args) > 2 else kwargs.get("non_blocking")):
            self.wait(f"{func.name()} to {target}")
        if target.type == "meta":
            self.to_device_bytes += source.nbytes
            return func(*args, **kwargs)
        self.to_host_bytes += source.nbytes
        return args[0] if into else torch.zeros_like(source, device=target, dtype=kwargs["dtype"])

    def wait(self, what: str) -> None:
        """Fail, unless waits are allowed."""
        assert self.waiting, f"the host waits in {what}"

    def _made(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """`torch.tensor`, which is not dispatched: a list goes to a device in pageable memory."""
        if torch.device(kwargs.get("device") or "cpu").type == "meta":
            self.wait("torch.tensor")
        return _MAKE(*args, **kwargs)
