"""Imports transformers' model code without torch's compiler and its tensors of several devices.

transformers asks for both at import, for decorators and for checks of type that one process on one
device never needs. They are two fifths of the time that a program needs to import a model.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

__all__ = ["import_transformers"]

_COMPILER = "torch._dynamo"
_DECORATORS = ("allow_in_graph", "assume_constant_result", "disable")
_VMAP = "torch._dynamo._trace_wrapped_higher_order_op"
_MODEL_CODE = ("transformers.modeling_utils", "transformers.models.gemma4.modeling_gemma4")


def import_transformers() -> None:
    """Import what a session needs of transformers, the quick way where that is possible.

    Only for programs that compile nothing with torch and use one process: functions of transformers
    are not marked for torch's compiler afterwards. The compiler itself can be imported as ever.
    """
    if all(name in sys.modules for name in _MODEL_CODE):
        return
    if not _import_lean():
        _import_model_code()
    # A quarter of a million objects that stay: each collection of garbage would go through them,
    # and one comes with every model that is opened
    gc.freeze()


def _import_lean() -> bool:
    """Whether the model code is there now; a release that asks for more gets all there is."""
    if _COMPILER in sys.modules:
        return False
    with _without_compiler(), _without_distribution():
        try:
            _import_model_code()
        except (ImportError, AttributeError):
            return False
    return True


def _import_model_code() -> None:
    for name in _MODEL_CODE:
        import_module(name)


@contextmanager
def _without_distribution() -> Iterator[None]:
    """Within, torch says that it was built without support for several processes."""
    is_available = torch.distributed.is_available
    torch.distributed.is_available = lambda: False
    try:
        yield
    finally:
        torch.distributed.is_available = is_available


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Within, a module stands for torch's compiler whose decorators change nothing."""
    compiler, vmap = ModuleType(_COMPILER), ModuleType(_VMAP)
    vars(compiler).update(dict.fromkeys(_DECORATORS, _unchanged), __path__=[])
    vars(vmap).update(TransformGetItemToIndex=_transform_getitem_to_index)
    sys.modules |= {_COMPILER: compiler, _VMAP: vmap}
    try:
        yield
    finally:
        for name in (_COMPILER, _VMAP):
            del sys.modules[name]


def _unchanged(function: Any = None, *_: object, **__: object) -> Any:
    """A decorator, with arguments or without, that leaves a function as it is."""
    return _unchanged if function is None else function


def _transform_getitem_to_index() -> Any:
    """The mode of torch that masks made by vmap run under; it is imported where one is made."""
    return import_module(_VMAP).TransformGetItemToIndex()
