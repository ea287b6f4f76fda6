"""`kernels/README.md`: its numbers come out of the commands beside them, its quickstart runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "kernels" / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def run(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "kernels", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


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
