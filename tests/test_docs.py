"""README and docs against the project they describe."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

import rqchat
from rqchat.cli.app import app

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = sorted(
    path
    for path in (README, *(ROOT / "docs").rglob("*.md"), *(ROOT / "kernels").rglob("*.md"))
    if path.exists()
)
SHELLS = ("sh", "bash", "console", "shell")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def shell_commands(text: str) -> list[list[str]]:
    """Calls of `rqchat` and `install.sh` in a page's shell blocks, one list of words each."""
    found = []
    for language, body in FENCE.findall(text):
        if language not in SHELLS:
            continue
        lines = body.replace("\\\n", " ").splitlines()
        if language == "console":
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        for line in lines:
            words = shlex.split(line, comments=True)
            while words:
                end = next((i for i, w in enumerate(words) if w in ("|", "&&", ";")), len(words))
                command, words = words[:end], words[end + 1 :]
                if command and Path(command[0]).name in ("rqchat", "install.sh"):
                    found.append(command)
    return found


def faults_of(command: list[str]) -> list[str]:
    """What the installer and the command line would not understand of one call."""
    words = command[1:]
    if Path(command[0]).name == "install.sh" and words[:1] in ([], ["--test"], ["--help"]):
        return []
    parser: Any = typer.main.get_command(app)
    while hasattr(parser, "commands") and words and not words[0].startswith("-"):
        if words[0] not in parser.commands:
            return [f"no command {words[0]!r}"]
        parser = parser.commands[words[0]]
        words = words[1:]
    known = {"-h", "--help"} | {
        option
        for parameter in parser.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    given = (word.split("=")[0] for word in words if re.match(r"--?[a-z]", word))
    return [f"no option {option}" for option in given if option not in known]


@pytest.mark.parametrize(
    "command",
    [
        './install.sh ask --image docs/images/shapes.png "What is in this picture?"',
        "./install.sh --test",
    ],
)
def test_the_readme_gives_the_two_commands(command: str) -> None:
    assert shlex.split(command) in shell_commands(README.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_command_of_a_page_is_known(page: Path) -> None:
    commands = shell_commands(page.read_text(encoding="utf-8"))
    assert {shlex.join(c): faults_of(c) for c in commands if faults_of(c)} == {}


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_link_of_a_page_leads_to_a_file(page: Path) -> None:
    targets = [target.split("#")[0] for target in LINK.findall(page.read_text(encoding="utf-8"))]
    local = [target for target in targets if target and "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_every_file_that_a_command_of_the_readme_names_exists() -> None:
    words = [w for c in shell_commands(README.read_text(encoding="utf-8")) for w in c]
    named = [word for word in words if word.startswith(("docs/", "./"))]
    assert [word for word in named if not (ROOT / word).exists()] == []


def test_the_newest_change_is_this_version() -> None:
    changelog = (ROOT / "docs/changelog.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (\d+\.\d+\.\d+)\b", changelog, re.MULTILINE)
    assert versions[0] == rqchat.__version__


@pytest.mark.parametrize(
    ("block", "faults"),
    [
        ("```sh\ncat a | rqchat ask --stats 'b'\n```", []),
        ("```console\n$ rqchat plan \\\n  --vram 24GiB\nsome output\n```", []),
        ("```sh\n./install.sh --test && rqchat frob\n```", ["no command 'frob'"]),
        ("```sh\nrqchat ask --frob=1 x\n```", ["no option --frob"]),
        ("```sh\nrqchat config show --json\n```", []),
        ("```sh\nrqchat config frob\n```", ["no command 'frob'"]),
        ("```text\nrqchat frob\n```", []),
    ],
)
def test_the_reader_of_pages_sees(block: str, faults: list[str]) -> None:
    assert [fault for command in shell_commands(block) for fault in faults_of(command)] == faults
