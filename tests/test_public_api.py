"""What other programs import, and what an import must not load."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import rotorquant
from rotorquant.exceptions import RotorQuantError
from rqchat import errors

ROOT = Path(__file__).resolve().parents[1]
TORCH_FREE = (
    "rotorquant",
    "rotorquant.layout",
    "rqchat",
    "rqchat.cli.app",
    "rqchat.engine.conversation",
    "rqchat.engine.inputs.documents",
    "rqchat.engine.events",
    "rqchat.engine.inputs.pictures",
    "rqchat.engine.model_files.resolve",
    "rqchat.engine.planning.plan",
    "rqchat.engine.settings",
    "rqchat.engine.planning.shape",
    "rqchat.engine.generation.text_stream",
    "rqchat.ui.console",
    "rqchat.ui.editor.line_editor",
    "rqchat.ui.stream",
)
HEAVY = ("torch", "transformers", "triton")


def _modules() -> list[str]:
    names = []
    for base, package in ((ROOT, "rqchat"), (ROOT / "kernels", "rotorquant")):
        for path in sorted((base / package).rglob("*.py")):
            parts = path.relative_to(base).with_suffix("").parts
            names.append(".".join(part for part in parts if part != "__init__"))
    return [name for name in names if not name.endswith((".__main__", ".kernel"))]


def _declared(name: str) -> list[str] | None:
    """`__all__` as it stands in the source, or None."""
    base = ROOT / "kernels" if name.startswith("rotorquant") else ROOT
    folder = base.joinpath(*name.split("."))
    path = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names: list[str] = ast.literal_eval(node.value)
            return names
    return None


def _run_fresh(code: str) -> list[str]:
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_rotorquant_gives_its_public_names() -> None:
    assert {"RotorQuantCache", "RotorQuantConfig"} <= set(rotorquant.__all__)
    assert isinstance(rotorquant.RotorQuantCache, type)
    with pytest.raises(AttributeError, match="NoSuchName"):
        _ = rotorquant.NoSuchName


def test_every_declared_name_exists() -> None:
    """In one test, so that one process alone imports every module."""
    missing = []
    for name in _modules():
        if _declared(name) is not None:
            module = importlib.import_module(name)
            missing += [f"{name}.{item}" for item in module.__all__ if not hasattr(module, item)]
    assert missing == []


def test_every_error_of_engine_and_library_descends_from_its_base() -> None:
    strays = []
    for name in _modules():
        if not name.startswith(("rqchat.engine", "rotorquant")):
            continue
        base = RotorQuantError if name.startswith("rotorquant") else errors.RqchatError
        module = importlib.import_module(name)
        strays += [
            f"{name}.{item.__name__}"
            for item in vars(module).values()
            if isinstance(item, type)
            and issubclass(item, Exception)
            and item.__module__ == name
            and not item.__name__.startswith("_")
            and not issubclass(item, base)
        ]
    assert strays == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.RqchatError("x"), 1),
        (errors.ModelError("x"), 1),
        (errors.InputError("x"), 1),
        (errors.StoreError("x"), 1),
        (errors.UsageError("x"), 2),
        (errors.DoesNotFitError("x"), 3),
        (errors.ContextLengthError("x", input_tokens=2, context_tokens=1), 4),
    ],
)
def test_exit_codes_are_those_promised(error: errors.RqchatError, code: int) -> None:
    assert error.exit_code == code


@pytest.mark.parametrize("name", TORCH_FREE)
def test_the_import_loads_no_torch(name: str) -> None:
    code = f"import sys, {name}; print([m for m in {HEAVY} if m in sys.modules])"
    assert _run_fresh(code) == ["[]"]


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["plan", "--help"]])
def test_the_command_answers_without_torch(arguments: list[str]) -> None:
    code = f"""
import sys
from rqchat.cli.app import main
try:
    main({arguments})
except SystemExit as end:
    print(end.code, [m for m in {HEAVY} if m in sys.modules])
"""
    assert _run_fresh(code)[-1] == "0 []"
