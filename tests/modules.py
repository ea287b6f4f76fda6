"""The modules of the source tree and their imports, read from the syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Import", "Module", "Tree", "imports_of", "is_below", "last_name", "read_tree"]


@dataclass(frozen=True)
class Import:
    """One import: the module it names, its line, and whether it runs when the file is imported."""

    target: str
    line: int
    in_function: bool
    typing_only: bool


@dataclass(frozen=True)
class Module:
    """One source file: `name` is dotted, with `__init__` kept for a package's own file."""

    name: str
    path: Path
    lines: int
    tree: ast.Module


Tree = dict[str, Module]


def is_below(name: str, *prefixes: str) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def read_tree(root: Path) -> Tree:
    """Every module of `rqchat` and `rotorquant` under `root`, by dotted name."""
    modules = {}
    for base, package in ((root, "rqchat"), (root / "kernels", "rotorquant")):
        for path in sorted((base / package).rglob("*.py")):
            name = ".".join(path.relative_to(base).with_suffix("").parts)
            source = path.read_text(encoding="utf-8")
            modules[name] = Module(name, path, len(source.splitlines()), ast.parse(source))
    return modules


def last_name(node: ast.expr) -> str:
    """`c` of the name `c` or of `a.b.c`; empty for any other expression."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def imports_of(module: Module, tree: Tree) -> Iterator[Import]:
    """All imports of a module, with `from package import module` resolved to the module."""
    yield from _walk(module.tree, module, tree, in_function=False, typing_only=False)


def _walk(
    node: ast.AST, module: Module, tree: Tree, *, in_function: bool, typing_only: bool
) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        for target in _targets(child, module, tree):
            yield Import(target, child.lineno, in_function, typing_only)  # type: ignore[attr-defined]
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        typed = isinstance(child, ast.If) and last_name(child.test) == "TYPE_CHECKING"
        yield from _walk(
            child,
            module,
            tree,
            in_function=in_function or inside,
            typing_only=typing_only or typed,
        )


def _targets(node: ast.AST, module: Module, tree: Tree) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.Call) and last_name(node.func) in ("import_module", "__import__"):
        constants = [a.value for a in node.args if isinstance(a, ast.Constant)]
        return [str(constants[0]) if constants else "?"]
    if not isinstance(node, ast.ImportFrom):
        return []
    parents = module.name.split(".")[: -node.level] if node.level else []
    origin = ".".join([*parents, *([node.module] if node.module else [])])
    full_names = [f"{origin}.{alias.name}" for alias in node.names]
    return [name if name in tree or f"{name}.__init__" in tree else origin for name in full_names]
