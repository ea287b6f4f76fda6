"""The first moments of the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rqchat import __main__

INTERRUPTED_IMPORT = """
import sys

class Impatient:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise KeyboardInterrupt

sys.meta_path.insert(0, Impatient())
from rqchat.__main__ import main
main()
"""


@pytest.mark.parametrize("module", ["rqchat.cli.app", "typer", "rqchat.cli.commands.ask_command"])
def test_ctrl_c_while_it_is_imported_is_quiet(module: str) -> None:
    root = Path(__main__.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IMPORT.format(module=module)],
        env={"PYTHONPATH": f"{root}:{root / 'kernels'}"},
        capture_output=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("arguments", [["--version"], ["config", "show"]])
def test_output_that_cannot_be_written_is_an_error(arguments: list[str]) -> None:
    root = Path(__main__.__file__).parents[1]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "rqchat", *arguments],
            env={"PYTHONPATH": f"{root}:{root / 'kernels'}"},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1
    assert done.stderr == "rqchat: the output cannot be written: No space left on device\n"
