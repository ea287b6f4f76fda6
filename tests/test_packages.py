"""The wheel and the sdist: what they hold, and that they answer where nothing else is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.modules import Tree, imports_of, is_below, read_tree
from tests.test_tree import project_files

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LEFT_OUT = tuple(
    path.removeprefix("/").removeprefix("kernels/").replace("/", ".")
    for path in SETTINGS["tool"]["hatch"]["build"]["exclude"]
)
NOT_SHIPPED = ("rqchat/bench/", "rqchat/pocket/training/", "rotorquant/bench/", "tests/")
PICTURE = "docs/images/shapes.png"


def imports_left_out(tree: Tree) -> Iterator[str]:
    """Imports by what is in the wheel of what is not."""
    for name, module in tree.items():
        if not is_below(name, *LEFT_OUT):
            for found in imports_of(module, tree):
                if is_below(found.target, *LEFT_OUT):
                    yield f"{name}:{found.line} imports {found.target}"


def test_nothing_in_the_wheel_imports_what_is_not_in_it() -> None:
    assert list(imports_left_out(read_tree(ROOT))) == []


@pytest.mark.parametrize(
    "source",
    ["import rotorquant.bench.paths", "def f():\n  from rqchat.pocket.training import train"],
)
def test_an_import_of_what_is_left_out_is_found(tmp_path: Path, source: str) -> None:
    for name in ("kernels/rotorquant/bench/paths", "rqchat/pocket/training/train", "rqchat/cli/a"):
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(parents=True)
        path.write_text("import rotorquant.bench.paths\n")
    (tmp_path / "rqchat/cli/a.py").write_text(source)
    (fault,) = imports_left_out(read_tree(tmp_path))
    assert fault.startswith("rqchat.cli.a:")


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist, made from a copy of this checkout.

    `editable` in it holds the wheel of an editable installation.
    """
    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("made")
    for name in project_files():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    build(source, made, "sdist", "wheel")
    build(source, made / "editable", "editable")
    return made


def build(source: Path, folder: Path, *kinds: str) -> None:
    """Build packages of each kind into the folder, as pip would but in this environment."""
    program = (
        "import sys\nfrom hatchling import build\n"
        "for kind in sys.argv[2:]:\n  getattr(build, f'build_{kind}')(sys.argv[1])\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, folder, *kinds], cwd=source, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


def test_wheel_and_sdist_hold_the_program_and_its_licence_alone(packages: Path) -> None:
    (wheel,), (sdist,) = packages.glob("*.whl"), packages.glob("*.tar.gz")
    with ZipFile(wheel) as file:
        wheel_names = file.namelist()
        (metadata,) = (name for name in wheel_names if name.endswith("/METADATA"))
        head = file.read(metadata).decode().split("\n\n")[0].splitlines()
    with tarfile.open(sdist) as archive:
        sdist_names = [name.partition("/")[2] for name in archive.getnames()]
    for names in (wheel_names, [name.removeprefix("kernels/") for name in sdist_names]):
        assert [name for name in names if name.startswith(NOT_SHIPPED)] == []
        assert {
            *("rqchat/__main__.py", "rqchat/py.typed", "rqchat/pocket/model.safetensors"),
            *("rotorquant/cache.py", "rotorquant/py.typed"),
        } <= set(names)
    assert {"License-Expression: Apache-2.0", "License-File: docs/LICENSE"} <= set(head)
    assert "Author: rqchat contributors" in head
    assert {name.split("/")[0] for name in wheel_names} == {
        "rotorquant",
        "rqchat",
        metadata.split("/")[0],
    }
    # Every file that is not Python and lies beside code that is shipped has to be named.
    data = {
        name.removeprefix("kernels/")
        for name in project_files()
        if name.startswith(("rqchat/", "kernels/rotorquant/")) and not name.endswith(".py")
    }
    assert {name for name in data if not name.startswith(NOT_SHIPPED)} <= set(wheel_names)


def test_the_sdist_builds_the_same_wheel(packages: Path, tmp_path: Path) -> None:
    (wheel,), (sdist,) = packages.glob("*.whl"), packages.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    build(source, tmp_path / "made", "wheel")
    (again,) = (tmp_path / "made").iterdir()
    with ZipFile(wheel) as one, ZipFile(again) as other:
        assert {item.filename: item.CRC for item in one.infolist()} == {
            item.filename: item.CRC for item in other.infolist()
        }


def test_an_editable_installation_serves_the_benchmarks_and_not_the_tests(
    packages: Path, tmp_path: Path
) -> None:
    (wheel,) = (packages / "editable").iterdir()
    with ZipFile(wheel) as file:
        file.extractall(tmp_path)
    libraries = find_spec("editables")
    assert libraries and libraries.origin
    # Without site, or the installation that runs this test would answer.
    program = (
        "import site, sys\nfrom importlib.util import find_spec\n"
        "sys.path.append(sys.argv[1])\nsite.addsitedir(sys.argv[2])\n"
        "print([name for name in sys.argv[3:] if find_spec(name)])\n"
    )
    folders = [Path(libraries.origin).parents[1], tmp_path]
    names = ["rqchat.bench.__main__", "rotorquant.bench.__main__", "rqchat.pocket.training.train"]
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, *folders, *names, "tests"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.stdout == f"{names}\n", run.stderr


@pytest.mark.long
@pytest.mark.parametrize("installer", ["pip", "pipx", "uv"])
def test_an_installed_wheel_answers_the_picture_question(
    installer: str, packages: Path, tmp_path: Path
) -> None:
    """Takes torch from the index that the environment names; run with `-m long -n 0`."""
    (wheel,) = packages.glob("*.whl")
    programs = tmp_path / "bin"
    kept = ("HOME", "PATH", "LANG", "PIP_", "UV_", "SSL_")
    environment = {name: value for name, value in os.environ.items() if name.startswith(kept)} | {
        **{f"XDG_{kind}_HOME": str(tmp_path / kind) for kind in ("CACHE", "CONFIG", "DATA")},
        **{"PIPX_HOME": str(tmp_path / "pipx"), "PIPX_BIN_DIR": str(programs)},
        **{"UV_TOOL_DIR": str(tmp_path / "uv"), "UV_TOOL_BIN_DIR": str(programs)},
    }

    def run(*command: str | Path) -> str:
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(sys.executable, "-m", "venv", tmp_path / "venv")
    clean = tmp_path / "venv/bin"
    if installer == "pip":
        programs = clean
        run(clean / "python", "-m", "pip", "install", wheel)
    else:
        run(clean / "python", "-m", "pip", "install", installer)
        install = ("tool", "install") if installer == "uv" else ("install",)
        run(clean / installer, *install, "--python", sys.executable, wheel)
    answer = run(programs / "rqchat", "ask", "--image", PICTURE, "What is in this picture?")
    assert "circle" in answer, answer
