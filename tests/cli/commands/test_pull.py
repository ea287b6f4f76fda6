"""`rqchat pull` as users run it, against a hub on the loopback, with a cut in the middle."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.model_files.hub_server import REPOSITORY, Hub, serve


def _rqchat(
    folder: Path, url: str, *arguments: str, variable: str = "", most_bytes: int | None = None
) -> subprocess.CompletedProcess[str]:
    env = {
        **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
        "PYTHONPATH": os.pathsep.join(sys.path),
        "HF_ENDPOINT": url,
        "HF_HOME": str(folder),
        "HF_HUB_DISABLE_XET": "1",
        "RQCHAT_VRAM": "8GiB",
        **({variable: "1"} if variable else {}),
    }
    command = [sys.executable, "-m", "rqchat", *arguments]
    if most_bytes is not None:
        command = ["prlimit", f"--fsize={most_bytes}", *command]
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


def test_pull_goes_on_after_a_cut_and_the_rest_needs_no_network(
    tiny_folder: Path, tmp_path: Path
) -> None:
    with serve(Hub(tiny_folder)) as hub:
        hub.cut_after = [2000, 0, 0, 0, 0, 0]
        cut = _rqchat(tmp_path, hub.url, "pull", REPOSITORY)
        again = _rqchat(tmp_path, hub.url, "pull", REPOSITORY)
        asked = hub.requests[-1]

    assert (cut.returncode, cut.stdout) == (1, "")
    first, _ = cut.stderr.splitlines()
    assert first.startswith(f"downloading {REPOSITORY}: ")
    assert ": 1 MiB into " in first
    assert "rqchat pull someone/tiny" in cut.stderr
    assert (again.returncode, asked) == (0, "bytes=2000-")
    assert "verified" in again.stderr
    folder = Path(again.stdout.strip())
    assert (folder / "model.safetensors").is_file()
    planned = _rqchat(tmp_path, "http://127.0.0.1:9", "plan", "--model", REPOSITORY, "--offline")
    assert planned.returncode == 0, planned.stderr


@pytest.mark.skipif(not shutil.which("prlimit"), reason="needs prlimit, of util-linux")
def test_a_disk_that_fills_up_keeps_what_came(tiny_folder: Path, tmp_path: Path) -> None:
    with serve(Hub(tiny_folder)) as hub:
        full = _rqchat(tmp_path, hub.url, "pull", REPOSITORY, most_bytes=30_000)
        again = _rqchat(tmp_path, hub.url, "pull", REPOSITORY)
        asked = hub.requests[-1]

    assert full.returncode == 1
    assert "could not be written to" in full.stderr
    assert "what came is kept" in full.stderr
    assert (again.returncode, asked) == (0, "bytes=30000-")


@pytest.mark.parametrize("variable", ["", "RQCHAT_OFFLINE", "HF_HUB_OFFLINE"])
def test_pull_refuses_to_be_offline(tmp_path: Path, variable: str) -> None:
    arguments = ["pull", REPOSITORY] if variable else ["pull", REPOSITORY, "--offline"]
    refused = _rqchat(tmp_path, "http://127.0.0.1:9", *arguments, variable=variable)

    assert refused.returncode == 2
    assert "--offline" in refused.stderr


def test_pull_of_given_weights_asks_no_plan(tiny_folder: Path, tmp_path: Path) -> None:
    with serve(Hub(tiny_folder)) as hub:
        arguments = ["pull", REPOSITORY, "--vram", "1MiB"]
        unfit = _rqchat(tmp_path, hub.url, *arguments)
        forced = _rqchat(tmp_path, hub.url, *arguments, "--weights", "int4")

    assert (unfit.returncode, forced.returncode) == (3, 0), unfit.stderr


def test_pull_of_the_pocket_model_has_nothing_to_do(tmp_path: Path) -> None:
    done = _rqchat(tmp_path, "http://127.0.0.1:9", "pull", "pocket")

    assert done.returncode == 0
    assert "nothing to download" in done.stderr
