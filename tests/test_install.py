"""install.sh with a stand-in for Python on PATH: what it runs, what it says, what it leaves alone.

The stand-in answers the questions install.sh asks of Python, writes down every pip call, and
leaves behind a `rqchat` that repeats its arguments. No network, no real environment.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOLS = (
    "bash",
    "cat",
    "cksum",
    "chmod",
    "cp",
    "dirname",
    "mkdir",
    "mktemp",
    "readlink",
    "rm",
    "sed",
    "uname",
)
HAS_GPU = any(Path(path).exists() for path in ("/proc/driver/nvidia/version", "/dev/kfd"))
without_gpu = pytest.mark.skipif(HAS_GPU, reason="install.sh sees the real GPU of this machine")

FAKE_PYTHON = r"""#!/usr/bin/env bash
state=$(cat "$FAKE_STATE")
[[ $1 == -I ]] && shift
case "$1 $2" in
  "-c "*sys.version_info\[:2\]*) echo 3.13; [[ $state != *old* ]] ;;
  "-c "*ensurepip*) [[ $state != *without-venv* ]] ;;
  "-c "*urlopen*) [[ $state == *online* ]] ;;
  "-c "*) [[ $state != *cannot-import* ]] ;;
  "-m venv") rm -rf "$4"; mkdir -p "$4/bin"; cp "$0" "$4/bin/python"; echo "venv" >>"$FAKE_LOG" ;;
  "-m pip")
    shift 2
    echo "pip $*" >>"$FAKE_LOG"
    echo "pip talks"
    cat >/dev/null
    [[ -f pyproject.toml ]] || exit 1
    [[ $state != *pip-fails* ]] || exit 1
    cp "$FAKE_RQCHAT" "${0%/*}/rqchat" ;;
  "-m "*) echo "check $*" ;;
esac
"""

FAKE_RQCHAT = r"""#!/usr/bin/env bash
printf '<%s>' "$@"
cat
"""


@dataclass(frozen=True)
class House:
    """A project folder with a space in its name, and the PATH that install.sh sees."""

    project: Path
    bin: Path
    log_file: Path
    state_file: Path

    def run(
        self, *arguments: str, script: Path | None = None, cwd: Path | None = None, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": str(self.bin),
            "FAKE_STATE": str(self.state_file),
            "FAKE_LOG": str(self.log_file),
            "FAKE_RQCHAT": str(self.project.parent / "fake-rqchat"),
        }
        return subprocess.run(
            [script or self.project / "install.sh", *arguments],
            cwd=cwd or self.project.parent,
            env=environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def state(self, words: str) -> None:
        self.state_file.write_text(words)

    def take_log(self) -> list[str]:
        lines = self.log_file.read_text().splitlines()
        self.log_file.write_text("")
        return lines


@pytest.fixture
def house(tmp_path: Path) -> House:
    project = tmp_path / "a project"
    bin_folder = tmp_path / "bin"
    (project / ".ci").mkdir(parents=True)
    bin_folder.mkdir()
    for name in ("install.sh", "pyproject.toml", ".ci/check"):
        shutil.copy(ROOT / name, project / name)
    for name in TOOLS:
        found = shutil.which(name)
        assert found, f"{name} is not on PATH"
        (bin_folder / name).symlink_to(found)
    (bin_folder / "env").symlink_to(shutil.which("env") or "/usr/bin/env")
    _program(bin_folder / "python3.13", FAKE_PYTHON)
    _program(tmp_path / "fake-rqchat", FAKE_RQCHAT)
    made = House(project, bin_folder, tmp_path / "log", tmp_path / "state")
    made.state("offline")
    made.log_file.write_text("")
    return made


def _program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.mark.parametrize("script", ["install.sh", ".ci/run", ".ci/check"])
def test_the_script_parses_and_can_be_run(script: str) -> None:
    result = subprocess.run(
        ["bash", "-n", ROOT / script], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert os.access(ROOT / script, os.X_OK)


def test_ci_runs_the_command_that_the_readme_names() -> None:
    lines = (ROOT / ".ci/run").read_text().splitlines()
    assert lines[-1] == "./install.sh --test"


def test_help_tells_and_does_nothing(house: House) -> None:
    result = house.run("--help")
    assert result.returncode == 0
    assert "./install.sh --test" in result.stdout
    assert house.take_log() == []
    assert not (house.project / ".venv").exists()


@without_gpu
def test_arguments_stdin_and_stdout_are_rqchats(house: House) -> None:
    result = house.run("ask", "--file", "a b", "what's *?", "", stdin="document\n")
    assert (result.returncode, result.stdout) == (0, "<ask><--file><a b><what's *?><>document\n")
    assert "pip talks" in result.stderr
    venv, newer_pip, torch, project = house.take_log()
    assert venv == "venv" and newer_pip.endswith("--upgrade pip")
    assert torch.split()[-1] == "torch==2.13.0"
    assert project.split()[-2:] == ["--editable", "."]


@without_gpu
def test_a_second_run_installs_nothing_and_says_nothing(house: House) -> None:
    house.run()
    house.take_log()
    result = house.run("plan")
    assert (result.stdout, result.stderr) == ("<plan>", "")
    assert house.take_log() == []


@without_gpu
def test_a_changed_pyproject_is_installed_again_without_torch(house: House) -> None:
    house.run()
    house.take_log()
    with (house.project / "pyproject.toml").open("a") as file:
        file.write("\n# changed\n")
    house.run()
    (call,) = house.take_log()
    assert call.endswith("--editable .")


@without_gpu
def test_a_changed_torch_range_is_installed_again(house: House) -> None:
    house.run()
    house.take_log()
    path = house.project / "pyproject.toml"
    path.write_text(path.read_text().replace('"torch>=2.11,', '"torch>=2.12,'))
    house.run()
    assert [call.split()[-1] for call in house.take_log()] == ["torch==2.13.0", "."]


@without_gpu
def test_a_moved_project_is_installed_again(house: House) -> None:
    house.run()
    house.take_log()
    moved = house.project.rename(house.project.with_name("moved"))
    result = house.run("plan", script=moved / "install.sh")
    assert result.stdout == "<plan>"
    assert [call.split()[-1] for call in house.take_log()] == ["."]


@without_gpu
@pytest.mark.parametrize("damage", ["bin/python", "bin", "run.stamp"])
def test_a_half_made_environment_is_mended(house: House, damage: str) -> None:
    house.run()
    house.take_log()
    broken = house.project / ".venv" / damage
    shutil.rmtree(broken) if broken.is_dir() else broken.unlink()
    result = house.run("plan")
    assert (result.returncode, result.stdout) == (0, "<plan>")
    remade = damage != "run.stamp"
    assert ("venv" in house.take_log(), "is broken" in result.stderr) == (remade, remade)


@without_gpu
def test_an_environment_whose_python_was_replaced_is_made_anew(house: House) -> None:
    house.run()
    house.take_log()
    house.state("offline cannot-import")
    result = house.run("plan")
    assert "is broken" in result.stderr
    assert len(house.take_log()) == 4


@without_gpu
def test_it_goes_on_after_a_failed_download(house: House) -> None:
    house.state("offline pip-fails")
    result = house.run("plan")
    assert (result.returncode, result.stdout) == (1, "")
    assert "run this again" in result.stderr
    house.take_log()
    house.state("offline")
    assert house.run("plan").stdout == "<plan>"
    assert len(house.take_log()) == 2  # torch and the project; the environment was whole


@without_gpu
def test_it_works_through_a_link_and_keeps_the_callers_folder(house: House, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "first").symlink_to("../a project/install.sh")
    (elsewhere / "second").symlink_to(elsewhere / "first")
    _program(tmp_path / "fake-rqchat", "#!/usr/bin/env bash\npwd -P\n")
    result = house.run("plan", script=elsewhere / "second", cwd=elsewhere)
    assert result.stdout == f"{elsewhere.resolve()}\n"
    assert (house.project / ".venv/bin/rqchat").exists()


@without_gpu
def test_test_installs_the_tools_once_and_runs_the_checks(house: House) -> None:
    house.run()
    house.take_log()
    result = house.run("--test", "-k", "a b")
    assert result.returncode == 0
    checks = [line for line in result.stdout.splitlines() if line.startswith("check -m")]
    assert [re.sub(r"-n \d+", "-n N", line) for line in checks] == [
        "check -m pytest -n N --dist worksteal -k a b",
        "check -m ruff format --check .",
        "check -m ruff check .",
        "check -m pyrefly check --summary=none",
    ]
    triton, project = house.take_log()  # torch is there
    assert triton.split()[-1].endswith("'x86_64'") and "--no-deps triton>=" in triton
    assert project.endswith("--editable .[triton,test]")
    assert house.run("--test").returncode == 0
    house.run("plan")
    assert house.take_log() == []


@without_gpu
def test_the_cpu_build_comes_from_pytorch_where_it_can_be_reached(house: House) -> None:
    house.state("online")
    house.run()
    torch = house.take_log()[2].split()
    assert torch[-3:-1] == ["--index-url", "https://download.pytorch.org/whl/cpu"]
    assert torch[-1] == "torch>=2.11,<2.14"


@pytest.mark.parametrize(
    ("report", "index"),
    [
        ("| Driver Version: 580.1   CUDA Version: 13.0 |", None),
        ("| Driver Version: 570.1   CUDA Version: 12.8 |", "cu128"),
        ("| Driver Version: 535.1   CUDA Version: 12.2 |", "cu126"),
        ("a report that says it in another way", None),
    ],
)
def test_the_cuda_build_suits_the_driver(house: House, report: str, index: str | None) -> None:
    _program(house.bin / "nvidia-smi", f"#!/usr/bin/env bash\necho '{report}'\n")
    house.run()
    torch, project = house.take_log()[2:]
    assert torch.split()[-1] == "torch>=2.11,<2.14"
    assert ("--index-url" in torch, f"/{index} " in torch) == (index is not None,) * 2
    assert project.endswith("--editable .[gpu]")


@pytest.mark.skipif(HAS_GPU, reason="an NVIDIA GPU is looked for first")
def test_the_rocm_build_is_for_amd(house: House) -> None:
    _program(house.bin / "rocminfo", "#!/usr/bin/env bash\n")
    house.run("--test")
    torch, project = house.take_log()[2:]
    assert "/whl/rocm" in torch
    assert project.endswith("--editable .[gpu,test]")


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("old", "no Python 3.11 or newer found"),
        ("without-venv", "sudo apt-get install python3.13-venv"),
    ],
)
def test_a_machine_without_the_means_is_told_what_to_install(
    house: House, state: str, words: str
) -> None:
    house.state(state)
    result = house.run("ask", "hi")
    assert (result.returncode, result.stdout) == (1, "")
    assert words in result.stderr
    assert house.take_log() == []
