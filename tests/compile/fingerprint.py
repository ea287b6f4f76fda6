"""A digest of everything that the compiled code of a Triton kernel depends on.

Two launches have the same digest only if Triton would compile the same code: the same syntax tree
of the kernel and of each function that it reaches, the same constants, argument types and options,
the same card and the same Triton. Comments, docstrings, places in a file and the names of
functions, parameters and local variables do not matter.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
from collections.abc import Iterator
from functools import cache
from typing import Any

import triton
import triton.language as tl
from triton.runtime.jit import JITFunction

__all__ = ["digest_of", "source_digest"]

_DIGITS = 12  # 48 bits: 3,000 launches share one by accident once in 60 million tables
_PLAIN = (bool, int, float, str, tuple, type(None))
_ITSELF = "the function itself, which calls itself for another constant"


def digest_of(kernel: JITFunction[Any], card: int, specialization: str) -> str:
    """The digest of a launch.

    Args:
        kernel: what is launched.
        card: compute capability, 86 for 8.6.
        specialization: types, constants and options, as Triton gives them to `jit_cache_hook`.
    """
    return _hash((triton.__version__, card, specialization, source_digest(kernel)))


@cache
def source_digest(function: Any) -> str:
    """The digest of a `triton.jit` function and of all that it reaches.

    Raises:
        TypeError: it reads a global name whose value is not part of the digest.
    """
    (tree,) = function.parse().body
    if ast.get_docstring(tree, clean=False) is not None:
        tree.body = tree.body[1:]
    tree.name = ""
    own: dict[str, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            own.setdefault(node.arg, len(own))
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            own.setdefault(node.id, len(own))
    scope = function.get_capture_scope() | {function.__name__: _ITSELF}
    kind = type(function).__name__, getattr(function, "noinline", None)
    return _hash((*kind, _tree(tree, own, scope)))


def _tree(node: Any, own: dict[str, int], scope: dict[str, Any]) -> Any:
    """Nested tuples; without empty fields, in which versions of Python differ."""
    if isinstance(node, list):
        return tuple(_tree(one, own, scope) for one in node)
    if isinstance(node, ast.Name):
        return own[node.id] if node.id in own else _meaning(node.id, scope)
    if isinstance(node, ast.arg):
        return own[node.arg], _tree(node.annotation, own, scope)
    if isinstance(node, ast.AST):
        return type(node).__name__, *_fields(node, own, scope)
    return repr(node)


def _fields(node: ast.AST, own: dict[str, int], scope: dict[str, Any]) -> Iterator[Any]:
    for name, value in ast.iter_fields(node):
        if value is not None and value != []:
            yield name, _tree(value, own, scope)


def _meaning(name: str, scope: dict[str, Any]) -> str:
    """What a global name stands for, the same wherever it is defined."""
    if name not in scope:
        return f"builtin {getattr(builtins, name).__name__}"
    value = scope[name]
    home = str(getattr(value, "__module__", None) or getattr(value, "__name__", ""))
    if isinstance(value, tl.constexpr):
        return repr(value)
    if home.split(".")[0] == "triton":
        return f"{home}.{getattr(value, '__qualname__', '')}"
    if hasattr(value, "parse") and hasattr(value, "get_capture_scope"):
        return source_digest(value)
    if isinstance(value, _PLAIN):
        return repr(value)
    raise TypeError(
        f"{name} is {value!r}: import the functions that a kernel calls and the constants that it "
        "reads by their names, so that its digest holds them"
    )


def _hash(what: tuple[Any, ...]) -> str:
    return hashlib.sha256(repr(what).encode()).hexdigest()[:_DIGITS]
