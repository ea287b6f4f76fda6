"""Conversations removed on a disk without a free byte: a file system of a few megabytes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
APART = ["unshare", "--user", "--map-root-user", "--mount"]  # mounts that nobody else sees
SCRIPT = """
set -eu
mount -t tmpfs -o size=8M tmpfs "$DISK"
export XDG_DATA_HOME="$DISK/data" XDG_CACHE_HOME="$DISK/cache" XDG_CONFIG_HOME="$DISK/config"
"$PYTHON" -c '
import pathlib, rqchat.bench.store as store
store.fill_store(pathlib.Path("'"$XDG_DATA_HOME"'/rqchat/conversations.db"), 40)'
mkdir -p "$XDG_CACHE_HOME/rqchat/kv"
for name in $KEPT; do
    head -c 1000000 /dev/zero > "$XDG_CACHE_HOME/rqchat/kv/group-5000-$name.safetensors"
    sleep 0.01
done
cat /dev/zero > "$DISK/other" 2> "$DISK/log" || true
set +e
rqchat() { "$PYTHON" -m rqchat "$@"; }
rqchat sessions rm needle
echo "ended with $?"
rqchat sessions prune --keep 3 --yes 2>&1 | grep -v "^removed: "
rqchat sessions list | wc -l
rqchat cache list | cut -f1
rqchat cache clear
stat -c %s "$XDG_DATA_HOME/rqchat/conversations.db"
"""


def on_a_full_disk(folder: Path, *kept: str) -> list[str]:
    """What is said where files of these names are kept of documents, from the oldest on."""
    mount = [*APART, "mount", "-t", "tmpfs", "tmpfs", str(folder)]
    if not shutil.which("unshare") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    done = subprocess.run(
        [*APART, "bash", "-c", SCRIPT],
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}",
            "PYTHON": sys.executable,
            "DISK": str(folder),
            "KEPT": " ".join(kept),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.stdout.splitlines()


def test_what_is_kept_of_documents_gives_way(tmp_path: Path) -> None:
    removed, *said, size = on_a_full_disk(tmp_path, "aaaa", "bbbb", "cccc")
    assert removed == "the disk is full: dropped what was kept of a conversation, 977 KiB"
    assert "ended with 0" in said
    assert said[-4:] == ["3", "cccc", "bbbb", "removed 2, 2 MiB"]
    assert int(size) < 150_000


def test_nothing_can_give_way(tmp_path: Path) -> None:
    problem, ended, again, listed, *_, size = on_a_full_disk(tmp_path)
    assert "delete a little of something else there, and try again" in problem == again
    assert (ended, listed) == ("ended with 1", "20 of 40; --all lists the rest")
    assert int(size) > 300_000
