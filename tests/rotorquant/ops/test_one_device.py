"""Tensors of an op lie on one device, and its kernels are launched there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

from rotorquant.ops.append import append
from rotorquant.ops.gate import gelu_gate

ROOT = Path(__file__).resolve().parents[3]
CALLERS = [
    *sorted((ROOT / "kernels" / "rotorquant" / "ops").glob("*/__init__.py")),
    ROOT / "rqchat" / "engine" / "weights" / "kernels" / "multiply.py",
]


def test_tensors_of_two_devices_are_refused_by_name() -> None:
    buffers = [torch.zeros(1, 2, 64, 32, device="meta")]
    count = torch.zeros(1, dtype=torch.long, device="meta")
    with pytest.raises(ValueError, match="append was given tensors on cpu and meta; move them"):
        append(buffers, [torch.zeros(1, 2, 6, 32)], count)
    with pytest.raises(ValueError, match="gelu_gate was given tensors on cpu and meta"):
        gelu_gate(torch.zeros(4), up=torch.zeros(4, device="meta"))


@pytest.mark.parametrize("path", CALLERS, ids=lambda path: path.parent.name)
def test_no_kernel_is_launched_but_on_the_device_of_its_tensors(path: Path) -> None:
    """Triton launches on the current device, which is the first one unless somebody says so."""
    unguarded = [
        function.name
        for function in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(function, ast.FunctionDef)
        and not function.name.startswith("_")
        and any("kernel." in ast.unparse(node) for node in ast.walk(function) if _is_use(node))
        and "on_one_device" not in " ".join(map(ast.unparse, function.decorator_list))
    ]
    assert not unguarded


def _is_use(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
