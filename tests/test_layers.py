"""The direction of imports, and what the source must not hold, read from the syntax trees.

Every rule runs twice: over this project, where it must find nothing, and over a small tree with
one planted fault, where it must find it.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.modules import Module, Tree, imports_of, is_below, last_name, read_tree

ROOT = Path(__file__).resolve().parents[1]
FILE_LINES_LIMIT = 500
FOLDER_MODULES_LIMIT = 15
# What Python asks for, and the parts that every op has.
SHARED_NAMES = ("__init__.py", "__main__.py", "kernel.py", "reference.py", "launch.py")

# Parts of the engine that the screen may import, because they load no torch.
TORCH_FREE_ENGINE = (
    *("rqchat.engine.settings", "rqchat.engine.events", "rqchat.engine.conversation"),
    "rqchat.engine.sizes",
    *("rqchat.engine.planning", "rqchat.engine.conversations", "rqchat.engine.remote.address"),
    "rqchat.engine.outgrown.vllm_memory",
    *("rqchat.engine.inputs.documents", "rqchat.engine.inputs.pictures"),
    *("rqchat.engine.measure.fidelity_record", "rqchat.engine.model_files.resolve"),
    *("rqchat.engine.document_cache.cache_folder", "rqchat.engine.generation.text_stream"),
)
DOCSTRING = '"""A module that was planted for a test."""'
TYPED = "if TYPE_CHECKING:\n  "
NUMERIC = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "PIL")

# layer -> what its modules may import besides the standard library. The longest prefix of a
# module's name decides which row is its own; a row admits a name and everything below it.
LAYERS: dict[str, tuple[str, ...]] = {
    "rqchat": (),
    "rqchat.__main__": ("rqchat.cli.app",),
    "rqchat.cli": (
        *("rqchat.cli", "rqchat.ui", "rqchat.engine", "rqchat.errors", "typer", "platformdirs"),
    ),
    "rqchat.ui": (
        "rqchat.ui",
        *TORCH_FREE_ENGINE,
        "rqchat.errors",
        "rich",
        "markdown_it",
        "prompt_toolkit",
    ),
    "rqchat.engine": (
        *("rqchat.engine", "rqchat.errors", "rotorquant", *NUMERIC),
        *("huggingface_hub", "jinja2", "bitsandbytes", "pypdf", "pypdfium2", "llguidance"),
        *("pynvml", "gguf", "onnxruntime", "openai", "jsonschema"),
    ),
    # Frameworks for servers stay there: nothing else of the engine needs them.
    "rqchat.engine.serving": (
        *("rqchat.engine", "rqchat.errors", "rotorquant", "torch", "starlette", "uvicorn"),
    ),
    **dict.fromkeys(
        [f"rqchat.engine.weights.kernels.{name}" for name in ("linear", "experts", "gather")],
        ("rqchat.engine.weights", "torch", "triton"),
    ),
    "rqchat.pocket": (
        *("rqchat.pocket", *TORCH_FREE_ENGINE, "rqchat.errors", "rotorquant", *NUMERIC),
    ),
    # It measures through the real engine, or it would not measure what users get.
    "rqchat.pocket.training.evaluate": ("rqchat.pocket", "rqchat.engine", "rotorquant"),
    # It runs the program from outside.
    # What it measures is not to be seen from outside.
    "rqchat.bench.weights": ("rqchat.__init__", "rqchat.engine.weights", "torch", "gemlite"),
    "rqchat.bench": ("rqchat.bench",),
    # The environment has to be right before others import torch.
    "rqchat.bench.__main__": ("rqchat.bench", "rqchat.engine.settings"),
    # It measures tensors, which cannot be seen from outside.
    **dict.fromkeys(
        [
            f"rqchat.bench.{name}"
            for name in (
                *("plan_memory", "cards.roofline", "load_case", "checkpoint", "random_weights"),
                *("meter", "loss", "schema"),
            )
        ],
        ("rqchat", "rqchat.bench", "rqchat.engine", "rqchat.errors", *NUMERIC),
    ),
    # They count what a step of the library calls, and leave out what it copies to the host.
    **dict.fromkeys(
        ["rqchat.bench.decode", "rqchat.bench.memory_case"],
        ("rqchat", "rqchat.bench", "rqchat.engine", "rqchat.errors", "rotorquant", *NUMERIC),
    ),
    # It draws what no model has written.
    "rqchat.bench.drawing": ("rqchat.bench", "rqchat.ui", "rqchat.engine.events"),
    # It fills a store first.
    "rqchat.bench.store": ("rqchat.bench", "rqchat.engine.conversations", *TORCH_FREE_ENGINE),
    "rotorquant": ("rotorquant", "torch", "transformers", "safetensors"),
    "rotorquant.ops": ("rotorquant.ops", "torch"),
    "rotorquant.ops.kernel": ("rotorquant.ops", "torch", "triton"),
}
# What a row above admits by its prefix and must not.
FORBIDDEN: dict[str, tuple[str, ...]] = {
    "rqchat.engine": ("rotorquant.ops",),
    "rqchat.pocket": ("rotorquant.ops",),
}
LATE_IMPORTS = (
    "rqchat.engine.lean_import",  # imports transformers under conditions
    *("rqchat.cli", "rqchat.__main__", "rotorquant.__init__", "rotorquant.ops.dispatch"),
    # slow to import and seldom needed
    *("rqchat.engine.weights.bitsandbytes_layers", "rqchat.engine.inputs.picture_levels"),
    *("rqchat.engine.weights.files.gguf_codebooks", "rqchat.engine.weights.cpu_linear4"),
)


def layer_of(module: Module) -> str:
    """The key of `LAYERS` that holds for this module."""
    if module.name.startswith("rotorquant.ops.") and module.name.endswith(".kernel"):
        return "rotorquant.ops.kernel"
    return max((row for row in LAYERS if is_below(module.name, row)), key=len)


def forbidden_imports(tree: Tree) -> list[str]:
    """Imports against the table `LAYERS`."""
    found = []
    for module in tree.values():
        for item in imports_of(module, tree):
            own_root = item.target == module.name.split(".")[0] == "rqchat"
            top = item.target.split(".")[0]
            if own_root or item.target == "?" or top in sys.stdlib_module_names:
                continue
            layer = layer_of(module)
            if not is_below(item.target, *LAYERS[layer]) or is_below(
                item.target, *FORBIDDEN.get(layer, ())
            ):
                found.append(f"{module.name}:{item.line} ({layer}) imports {item.target}")
    return found


def late_imports(tree: Tree) -> list[str]:
    """Imports inside functions, outside the places that need them to keep torch unloaded."""
    return [
        f"{module.name}:{item.line} imports {item.target} inside a function"
        for module in tree.values()
        if not is_below(module.name, *LATE_IMPORTS)
        for item in imports_of(module, tree)
        if item.in_function
    ]


def import_circles(tree: Tree) -> list[str]:
    """Modules that import each other in a circle, also in functions and for types alone."""
    graph = {
        module.name: {
            item.target if item.target in tree else f"{item.target}.__init__"
            for item in imports_of(module, tree)
        }
        for module in tree.values()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [" -> ".join(error.args[1])]
    return []


def long_files(tree: Tree) -> list[str]:
    """Files over the limit."""
    return [
        f"{module.name} has {module.lines} lines"
        for module in tree.values()
        if module.lines > FILE_LINES_LIMIT
    ]


def crowded_folders(tree: Tree) -> list[str]:
    """Folders with more modules than a reader takes in at once; every op is one of its own."""
    modules: dict[Path, int] = {}
    for module in tree.values():
        if module.path.name != "__init__.py":
            modules[module.path.parent] = modules.get(module.path.parent, 0) + 1
    return [
        f"{folder.name} holds {count} modules"
        for folder, count in modules.items()
        if count > FOLDER_MODULES_LIMIT
    ]


def repeated_names(tree: Tree) -> list[str]:
    """File names that stand twice, so that a search for one finds the other."""
    first: dict[str, str] = {}
    found = []
    for module in tree.values():
        if module.path.name not in SHARED_NAMES:
            other = first.setdefault(module.path.name, module.name)
            found += [f"{module.name} has the file name of {other}"] if other != module.name else []
    return found


def silent_modules(tree: Tree) -> list[str]:
    """Modules whose docstring does not begin with a line that says what they are for."""
    return [
        f"{module.name} does not say what it is for"
        for module in tree.values()
        if module.lines
        and not re.match(
            r"(?!See\b).{20,}[.:]$", (ast.get_docstring(module.tree) or "").split("\n")[0]
        )
    ]


def filled_engine_packages(tree: Tree) -> list[str]:
    """Packages of the engine that hold code: whoever imports a part of it would import that."""
    return [
        f"{module.name} is not empty"
        for module in tree.values()
        if is_below(module.name, "rqchat.engine")
        and module.path.name == "__init__.py"
        and module.lines
    ]


def prints(tree: Tree) -> list[str]:
    """Calls of `print` outside the one layer that writes to the screen."""
    return [
        f"{module.name}:{node.lineno} prints"
        for module in tree.values()
        if not is_below(module.name, "rqchat.ui")
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and last_name(node.func) == "print"
    ]


Rule = Callable[[Tree], list[str]]
RULES: tuple[Rule, ...] = (
    *(forbidden_imports, late_imports, import_circles, long_files, crowded_folders),
    *(repeated_names, silent_modules, filled_engine_packages, prints),
)


@pytest.fixture(scope="module")
def project() -> Tree:
    return read_tree(ROOT)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_project_keeps_the_rule(rule: Rule, project: Tree) -> None:
    assert {"rqchat.cli.app", "rqchat.engine.settings", "rotorquant.__init__"} <= project.keys()
    assert rule(project) == []


@pytest.mark.parametrize(
    ("rule", "path", "source", "expected"),
    [
        (forbidden_imports, "rqchat/cli/ask.py", "import torch", "imports torch"),
        (forbidden_imports, "rqchat/cli/ask.py", "def f():\n  import rotorquant", "rotorquant"),
        (forbidden_imports, "rqchat/ui/a.py", "import typer", "imports typer"),
        (forbidden_imports, "rqchat/ui/a.py", "from rqchat.engine import session", "engine"),
        (forbidden_imports, "rqchat/engine/a.py", "from .. import ui", "rqchat.ui"),
        (
            forbidden_imports,
            "rqchat/engine/a.py",
            "import rqchat.pocket.training.train",
            "rqchat.pocket",
        ),
        (forbidden_imports, "rqchat/engine/a.py", "from rotorquant.ops import x", "rotorquant"),
        (
            forbidden_imports,
            "rqchat/pocket/a.py",
            "import rqchat.engine.loading.loader",
            "loading.loader",
        ),
        (forbidden_imports, "kernels/rotorquant/cache.py", "import rqchat.errors", "rqchat"),
        (forbidden_imports, "kernels/rotorquant/cache.py", "import rich", "rich"),
        (forbidden_imports, "kernels/rotorquant/ops/a/__init__.py", "import triton", "triton"),
        (forbidden_imports, "kernels/rotorquant/ops/a/kernel.py", "import transformers", "transf"),
        (forbidden_imports, "kernels/rotorquant/ops/a/b.py", "import rotorquant.config", "config"),
        (late_imports, "rqchat/engine/a.py", "def f():\n  import json", "json"),
        (late_imports, "rqchat/ui/a.py", "def f(n):\n  import_module(n)", "inside a function"),
        (import_circles, "rqchat/engine/a.py", "from rqchat.engine import b", "rqchat.engine.a"),
        (import_circles, "rqchat/engine/a.py", "def f():\n  import rqchat.engine.b", "engine.b"),
        (import_circles, "rqchat/engine/a.py", f"{TYPED}from rqchat.engine import b", "engine.b"),
        (long_files, "rqchat/engine/a.py", "\n" * 501, "502 lines"),
        (repeated_names, "rqchat/ui/b.py", "", "rqchat.ui.b has the file name of rqchat.engine.b"),
        (filled_engine_packages, "rqchat/engine/__init__.py", "", "engine.__init__ is not empty"),
        (prints, "rqchat/cli/ask.py", "print(1)", "rqchat.cli.ask:2"),
    ],
)
def test_the_rule_finds_a_fault(
    tmp_path: Path, rule: Rule, path: str, source: str, expected: str
) -> None:
    (tmp_path / "rqchat/ui").mkdir(parents=True)
    (tmp_path / "rqchat/ui/__init__.py").touch()
    _write(tmp_path, "rqchat/engine/b.py", "import rqchat.engine.a")
    assert rule(read_tree(tmp_path)) == []
    _write(tmp_path, path, source)
    (fault,) = rule(read_tree(tmp_path))
    assert expected in fault


def test_the_rule_finds_a_crowded_folder(tmp_path: Path) -> None:
    for letter in "abcdefghijklmno":
        _write(tmp_path, f"rqchat/engine/{letter}.py", "")
    assert crowded_folders(read_tree(tmp_path)) == []
    _write(tmp_path, "rqchat/engine/p.py", "")
    assert crowded_folders(read_tree(tmp_path)) == ["engine holds 16 modules"]


@pytest.mark.parametrize(
    "first", ["", "import json\n", '"""Helpers"""\n', '"""See `rqchat.engine.plan`."""\n']
)
def test_the_rule_finds_a_module_that_does_not_say_what_it_is(tmp_path: Path, first: str) -> None:
    _write(tmp_path, "rqchat/engine/a.py", "x = 1")
    assert silent_modules(read_tree(tmp_path)) == []
    (tmp_path / "rqchat/engine/a.py").write_text(f"{first}x = 1\n", encoding="utf-8")
    assert silent_modules(read_tree(tmp_path)) == ["rqchat.engine.a does not say what it is for"]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("rqchat/cli/ask.py", "def f():\n  from rqchat.engine import session"),
        ("rqchat/cli/ask.py", "from rqchat import __version__"),
        ("rqchat/ui/a.py", "from rqchat.engine.events import Done\nprint(1)"),
        ("kernels/rotorquant/ops/a/kernel.py", "import triton.language as tl"),
        ("kernels/rotorquant/__init__.py", "def f(n):\n  return import_module(n)"),
        ("rqchat/engine/a.py", f"{TYPED}from rqchat.engine import c"),
    ],
)
def test_no_rule_objects_to_what_is_allowed(tmp_path: Path, path: str, source: str) -> None:
    _write(tmp_path, "rqchat/engine/b.py", "import rqchat.engine.a")
    _write(tmp_path, path, source)
    assert [fault for rule in RULES for fault in rule(read_tree(tmp_path))] == []


def _write(root: Path, path: str, source: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(f"{DOCSTRING}\n{source}", encoding="utf-8")
