"""Which figure is asked for on which device, and how much of a GPU a process may take."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rqchat.engine.loading.memory_in_use import peak_bytes, used_bytes
from rqchat.engine.loading.open_model import limit_gpu_memory
from rqchat.engine.planning.devices import DeviceInfo, cpu_device
from rqchat.engine.planning.memory import GPU_CONTEXT_BYTES, LEFT_FREE_BYTES
from rqchat.engine.planning.plan import make_plan
from rqchat.engine.planning.shape import ModelShape
from rqchat.engine.settings import Settings
from tests.helpers import TINY_CONFIG

_SHAPE = ModelShape.from_config(TINY_CONFIG)


def test_metal_is_asked_for_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 123)
    apple = DeviceInfo("Apple M3", 10**10, 10**10, "sysctl", "mps")

    assert (peak_bytes(apple), used_bytes(apple)) == (123, 123)


def test_a_process_holds_its_resident_size() -> None:
    tensor = torch.ones(2**22)

    assert used_bytes(cpu_device()) > tensor.nbytes
    assert peak_bytes(cpu_device()) >= tensor.nbytes


@pytest.mark.parametrize("free_gib", [20, 24])
def test_torch_may_take_what_was_free(monkeypatch: pytest.MonkeyPatch, free_gib: int) -> None:
    whole, free = 24 * 2**30, free_gib * 2**30
    asked: list[Any] = []
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "")  # so that it is taken back
    monkeypatch.delenv("CUDA_DEVICE_ORDER")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    properties = SimpleNamespace(total_memory=whole)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda name: properties)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda *given: asked.append(given)
    )
    card = DeviceInfo("card", whole, free, "test", "cuda:1")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    limit_gpu_memory(make_plan(_SHAPE, card, Settings()))

    ((share, name),) = asked
    assert name == "cuda:1"
    assert round(share * whole) == free - GPU_CONTEXT_BYTES - LEFT_FREE_BYTES
    assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_a_cpu_is_not_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("asked"))

    limit_gpu_memory(make_plan(_SHAPE, cpu_device(), Settings()))
