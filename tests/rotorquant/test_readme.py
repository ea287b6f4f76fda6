"""`kernels/README.md`: its numbers come out of the commands beside them, its quickstart runs."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "kernels" / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def run(code: str) -> str:
    """What a program prints, in this process: importing torch again would take longer than all."""
    printed = io.StringIO()
    with contextlib.chdir(ROOT), contextlib.redirect_stdout(printed), torch.random.fork_rng():
        exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
    return printed.getvalue()


@pytest.mark.parametrize("command", blocks("sh"))
def test_a_table_is_what_its_command_prints(command: str) -> None:
    found = re.fullmatch(r"PYTHONPATH=kernels python - <<'PY'\n(.*)PY\n", command, re.DOTALL)
    assert found is not None
    table = run(found.group(1))
    assert table.count("\n") >= 6
    assert table in README


def test_the_quickstart_runs_as_written() -> None:
    (code,) = blocks("python")
    assert blocks("text")[0] == run(code)
