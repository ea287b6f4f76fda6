"""`rqchat cache`, and the option that goes without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from rqchat.engine.document_cache.cache_folder import CacheFolder, EntryLabel
from rqchat.ui.document_cache_table import kept_table
from tests.cli.conftest import Run
from tests.cli.fake_session import FakeSession


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CacheFolder:
    """Two documents in the folder that the command looks at."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    store = CacheFolder(tmp_path / "rqchat" / "kv", 2**30)
    for tokens, name in ((3000, "a book.txt"), (5000, "map\x1b[31m.png")):
        path = store.begin("g", range(tokens))
        path.write_bytes(bytes(1000))
        store.finish(path, EntryLabel((name,), "pocket", "fp32", 4))
    return store


def test_list_says_what_is_kept(run: Run, kept: CacheFolder) -> None:
    shown = run("cache", "list")

    assert shown.code == 0
    assert "a book.txt" in shown.out and "3,000" in shown.out and "pocket (fp32)" in shown.out
    assert "\x1b" not in shown.out


def test_without_a_command_it_is_the_list(run: Run, kept: CacheFolder) -> None:
    assert run("cache") == run("cache", "list")


def test_list_for_programs(run: Run, kept: CacheFolder) -> None:
    entries = json.loads(run("cache", "list", "--json").out)

    assert {entry["tokens"] for entry in entries} == {3000, 5000}
    assert all(entry["bytes"] == 1000 and entry["kv_bits"] == 4 for entry in entries)


def test_one_is_removed_by_the_beginning_of_its_name(run: Run, kept: CacheFolder) -> None:
    gone, stays = kept.entries()

    assert run("cache", "rm", gone.name[:8]).code == 0
    assert kept.entries() == (stays,)


def test_what_several_plans_kept_of_one_document_goes_together(run: Run, kept: CacheFolder) -> None:
    gone, stays = kept.entries()
    path = kept.begin("another plan", range(gone.tokens))
    path.write_bytes(bytes(1000))
    kept.finish(path, EntryLabel(("a book.txt",), "pocket", "bf16", 3))

    assert "removed 2" in run("cache", "rm", gone.name).err
    assert kept.entries() == (stays,)


@pytest.mark.parametrize("name", ["nothing", ""])
def test_an_unknown_name_removes_nothing(run: Run, kept: CacheFolder, name: str) -> None:
    result = run("cache", "rm", kept.entries()[0].name, name)

    assert result.code == 2
    assert "rqchat cache list" in result.err
    assert len(kept.entries()) == 2


def test_clear_removes_all(run: Run, kept: CacheFolder) -> None:
    assert "removed 2" in run("cache", "clear").err
    assert kept.entries() == ()
    assert "nothing is kept" in run("cache", "list").err


def test_ask_ends_by_keeping_what_was_read(run: Run, session: FakeSession) -> None:
    run("ask", "Hello")

    assert session.closed
    assert session.settings is not None and not session.settings.no_cache


def test_no_cache_reaches_the_engine(run: Run, session: FakeSession) -> None:
    run("ask", "--no-cache", "Hello")

    assert session.settings is not None and session.settings.no_cache


def test_no_log_leaves_no_file(tmp_path: Path) -> None:
    """The whole program, as nothing else shows what its libraries write."""
    document = tmp_path / "document.txt"
    document.write_text("The access code is 4711. " + "It rains in the town. " * 420)
    home = tmp_path / "home"
    home.mkdir()
    kinds = ("CONFIG", "DATA", "CACHE", "STATE")
    places = {f"XDG_{kind}_HOME": str(home / kind.lower()) for kind in kinds}
    command = [sys.executable, "-m", "rqchat", "ask", "--model=pocket", "-n", "-f", str(document)]
    done = subprocess.run(
        [*command, "What is the access code?"],
        env=os.environ | places | {"HOME": str(home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "4711" in done.stdout
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_a_narrow_list_shortens_names_alone(run: Run, kept: CacheFolder) -> None:
    path = kept.begin("g", range(7000))
    path.write_bytes(bytes(1000))
    kept.finish(path, EntryLabel(("/a/long/way/to/the/book.txt",), "pocket", "fp32", 4))
    console = Console(width=70)
    with console.capture() as shown:
        console.print(kept_table(kept.entries()))

    heading, *rows = shown.get().splitlines()

    assert "last used" in heading and len(rows) == 3
    assert all(row.rstrip()[-3] == ":" for row in rows)  # the time is whole
    piped = [line.split("\t") for line in run("cache", "list").out.splitlines()]
    assert "/a/long/way/to/the/book.txt" in [row[1] for row in piped]
