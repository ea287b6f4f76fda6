"""The shape of the tree, and what no committed file may name."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOP_LEVEL = {
    *("README.md", "docs", "install.sh", "kernels", "pyproject.toml", "rqchat", "tests"),
}
# Written so that no pattern matches its own text.
LEAKS = re.compile(
    r"/[r]oot/|/[h]ome/(?!me\b|you\b)\w|/[w]ork/(?:main|shared|tmp|\.)|/[o]pt/(?:pypi|wheels|\w*venv)"
    r"|[/.@][p]ypi\.org|[p]ythonhosted\.org|[r]egistry\.npmjs|\b[d]eb\.debian\.org"
    r"|\b[1]0(?:\.\d{1,3}){3}\b|\b[1]92\.168(?:\.\d{1,3}){2}\b"
)


@cache
def project_files() -> tuple[str, ...]:
    """Paths that git tracks or would track, relative to the root."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: nothing tells the project's files from others")
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"]
    command += ["--cached", "--others", "--exclude-standard"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    names = {name for name in result.stdout.split("\0") if name and (ROOT / name).exists()}
    return tuple(sorted(names))


def test_the_top_level_holds_what_was_agreed() -> None:
    entries = {name.split("/")[0] for name in project_files()}
    assert {entry for entry in entries if not entry.startswith(".")} == TOP_LEVEL


def test_kernels_is_a_folder_and_not_a_package() -> None:
    # With an __init__.py it would hide the package `kernels` that transformers looks for.
    assert not (ROOT / "kernels/__init__.py").exists()
    assert {name.split("/")[1] for name in project_files() if name.startswith("kernels/")} <= {
        "README.md",
        "rotorquant",
    }


def test_no_file_names_a_machine_or_a_registry() -> None:
    found = []
    for name in project_files():
        data = (ROOT / name).read_bytes()
        if b"\0" not in data:
            hit = LEAKS.search(data.decode("utf-8"))
            found += [f"{name}: {hit.group()}"] if hit else []
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "see /" + "home/ada/x",
        "cd /" + "root/x",
        "https://" + "pypi.org/simple",
        "at 10." + "0.0.7",
    ],
)
def test_the_leak_patterns_see(text: str) -> None:
    assert LEAKS.search(text)
