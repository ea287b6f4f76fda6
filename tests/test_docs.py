"""README and docs against the project they describe."""

from __future__ import annotations

import importlib.util
import io
import re
import shlex
import traceback
from pathlib import Path
from typing import Any

import pytest
import typer

import rqchat
from rotorquant.ops.attend import reference
from rqchat.cli.app import app, main
from tests.test_tree import project_files

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
DESIGN = ROOT / "docs" / "design.md"
CODE = re.compile(r"``?([^`\n]+)``?")
FILE = re.compile(r"[\w.-]+(?:/[\w.-]+)*\.(?:py|md|sh|svg|png|txt|toml|jinja|safetensors)")
# A file as prose names it, from one of our folders on.
PLACE = re.compile(r"(?<![\w/.-])(?:docs|tests|rqchat|kernels|\.ci)/[\w./-]*\w")
MODULE = re.compile(r"\bpython3? (?:-W \S+ |-W \"[^\"]*\" )?-m ([\w.]+)(?: (\w+))?")
LINE_LIMIT = 200
# What a user has, or what a command of the page writes.
THEIRS = {
    *("contract.pdf", "photo.jpg", "cat.png", "text.txt", "another.txt", "book.txt", "a.txt"),
    *("performance.md", "config.json", "calibration.safetensors", "calibration.rq", "logs.db"),
}


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


def anchors_of(text: str) -> set[str]:
    """What links to the headings of a page are called, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_link_to_a_heading_finds_it(page: Path) -> None:
    lost = []
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        if anchor and "://" not in target:
            text = (page.parent / name if name else page).read_text(encoding="utf-8")
            lost += [target] if anchor not in anchors_of(text) else []
    assert lost == []


def test_headings_are_linked_as_github_does() -> None:
    text = "# From `rqchat ask` to the kernel\n\n```sh\n# a comment\n```\n## Triton 3.6\n"
    assert anchors_of(text) == {"from-rqchat-ask-to-the-kernel", "triton-36"}


def files_named(text: str) -> set[str]:
    """Files and folders of the project that a page names, in backticks or by their whole path."""
    code = {name for name in CODE.findall(FENCE.sub("", text)) if FILE.fullmatch(name)}
    return code | set(PLACE.findall(text))


def is_known(name: str) -> bool:
    """Whether `name` is the whole path of a project file or folder, or the end of one."""
    paths = [f"/{path}" for path in project_files()]
    return any(path.endswith(f"/{name}") or path.startswith(f"/{name}/") for path in paths)


def unknown_modules(text: str) -> list[str]:
    """What `python -m` is said to run and cannot be found; of benchmarks, names they lack."""
    found = []
    for module, name in MODULE.findall(text):
        if importlib.util.find_spec(module) is None:
            found.append(module)
        elif module in ("rqchat.bench", "rotorquant.bench") and name and not name.isupper():
            source = importlib.util.find_spec(f"{module}.__main__")
            assert source is not None
            assert source.origin is not None
            if f'"{name}"' not in Path(source.origin).read_text(encoding="utf-8"):
                found.append(f"{module} {name}")
    return found


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    named = files_named(page.read_text(encoding="utf-8"))
    assert [name for name in sorted(named - THEIRS) if not is_known(name)] == []


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_module_that_a_page_runs_exists(page: Path) -> None:
    assert unknown_modules(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", [README, DESIGN], ids=_name)
def test_the_lines_of_a_page_can_be_read_in_an_editor(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    assert [line[:60] for line in lines if len(line) > LINE_LIMIT] == []


def test_the_tree_of_the_readme_is_the_real_one() -> None:
    ((_, tree),) = [
        b for b in FENCE.findall(README.read_text(encoding="utf-8")) if "kernels/" in b[1]
    ]
    shown = {line.split()[0] for line in tree.splitlines()}
    paths = [path for path in project_files() if not path.startswith(".")]
    folders = {path.split("/")[0] for path in paths if "/" in path} - {"rqchat", "kernels"}
    inside = {
        "/".join(path.split("/")[:2])
        for path in paths
        if path.startswith(("rqchat/", "kernels/")) and path.count("/") > 1
    }
    files = {path for path in paths if "/" not in path} - {"README.md"}
    assert shown == folders | inside | files


def test_the_way_of_a_question_is_the_one_of_the_design(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The files on the stack where packed tokens are read, beside those that the page lists."""
    seen: set[tuple[str, ...]] = set()
    attend = reference.attend_packed

    def watched(*arguments: Any, **options: Any) -> Any:
        stack = (Path(frame.filename) for frame in traceback.extract_stack())
        ours = (str(path.relative_to(ROOT)) for path in stack if path.is_relative_to(ROOT))
        below = (name for name in ours if name.startswith(("rqchat/", "kernels/")))
        seen.add((*dict.fromkeys(below), "kernels/rotorquant/ops/attend/reference.py"))
        return attend(*arguments, **options)

    monkeypatch.setattr(reference, "attend_packed", watched)
    piped = io.BytesIO(b"The river carries stone and wind to the harbour. " * 80)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(piped))
    asked = ["ask", "--model", "pocket", "--device", "cpu", "--no-log", "--no-cache"]
    with pytest.raises(SystemExit) as ended:
        main([*asked, "--max-tokens", "2", "What is carried?"])
    assert not ended.value.code
    capsys.readouterr()

    blocks = re.findall(r"(?:^    .*\n)+", DESIGN.read_text(encoding="utf-8"), re.MULTILINE)
    (listed,) = [block for block in blocks if "rqchat/__main__.py" in block]
    names = [line.split()[0] for line in listed.splitlines() if "/" in line.split()[0]]
    assert names[0] == "rqchat/__main__.py"
    assert seen == {tuple(names[1:])}


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("`statistics.py`, `ops/attend/reference.py` and `docs/design.md`", []),
        (
            "`frob.py` is gone, and so is tests/frob/test_frob.py.",
            ["frob.py", "tests/frob/test_frob.py"],
        ),
        ("see docs/log.md, or `rqchat/engine/planning`", []),
    ],
)
def test_the_reader_of_pages_finds_files(text: str, unknown: list[str]) -> None:
    assert sorted(name for name in files_named(text) if not is_known(name)) == unknown


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("`python -m rqchat.bench speed` and python -m pytest tests", []),
        ("`python -m rqchat.frob`", ["rqchat.frob"]),
        ("`python -m rotorquant.bench frob --x`", ["rotorquant.bench frob"]),
    ],
)
def test_the_reader_of_pages_finds_modules(text: str, unknown: list[str]) -> None:
    assert unknown_modules(text) == unknown


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
