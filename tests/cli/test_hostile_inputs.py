"""Inputs that are made to hurt, or that somebody's disk just has: read, or refused in a line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from rqchat.engine.inputs import folders
from tests.cli.conftest import Run, Talk
from tests.cli.fake_session import FakeSession
from tests.cli.test_store_processes import PROGRAM, ROOT
from tests.cli.test_streams import shell

CAFE = b"caf\xe9"  # "café" in Latin-1, which is not UTF-8


def _refused(run: Run, *arguments: str, stdin: bytes | None = None) -> str:
    result = run("ask", *arguments, "What?", stdin=stdin)
    assert (result.code, result.out, result.err.count("\n")) == (1, "", 1), result.err
    result.err.encode()
    return result.err


@pytest.fixture
def cafe(tmp_path: Path) -> Path:
    """A folder whose name, and whose files' names, are not UTF-8."""
    folder = tmp_path / os.fsdecode(CAFE)
    folder.mkdir()
    (folder / os.fsdecode(CAFE + b".txt")).write_text("notes")
    Image.new("RGB", (64, 48)).save(folder / os.fsdecode(CAFE + b".png"))
    return folder


@pytest.mark.parametrize(
    "name", ["{0}", "{0}/{1}.txt", "{0}/*.txt", "{2}/**/*.txt", "file://{3}/caf%E9/caf%E9.txt"]
)
def test_names_that_are_not_utf_8_are_read_and_shown(
    run: Run, session: FakeSession, cafe: Path, name: str
) -> None:
    name = name.format(cafe, cafe.name, cafe.parent, cafe.parent)
    result = run("ask", "-f", name, "What?")
    assert result.code == 0, result.err
    (document,) = session.asked[0][0].documents
    assert (document.text, Path(document.name).name) == ("notes", "caf\ufffd.txt")


def test_pictures_and_what_is_missing_under_such_names(
    run: Run, session: FakeSession, cafe: Path
) -> None:
    picture = cafe / os.fsdecode(CAFE + b".png")
    assert run("ask", "-i", str(picture), "What?").code == 0
    assert session.asked[0][0].pictures[0].name.endswith("caf\ufffd.png")
    for option in ("-f", "-i"):
        assert "caf\ufffd does not exist" in _refused(run, option, os.fsdecode(CAFE))


def test_such_names_in_a_chat(talk: Talk, session: FakeSession, cafe: Path) -> None:
    url = f"file://{cafe.parent}/caf%E9"
    _, err = talk(f"/file {url}/caf%E9.txt", f"/file {url}", f"{url}/caf%E9.txt", "What?")
    assert "Traceback" not in err
    assert [d.text for turn, _ in session.asked for d in turn.documents] == ["notes"] * 3


def test_a_line_in_a_chat_that_begins_like_a_path(talk: Talk, session: FakeSession) -> None:
    talk("~" + "x" * 300)  # longer than a name of a file may be
    assert [turn.text for turn, _ in session.asked] == ["~" + "x" * 300]


@pytest.mark.parametrize("name", ["{0}", "{0}/**/*.txt", "{0}/*/*"])
def test_a_disk_is_not_walked_before_it_is_too_large(
    run: Run, session: FakeSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(folders, "MAX_FOLDER_ENTRIES", 100)
    looked_at: list[object] = []
    scandir = os.scandir

    def look(path: Path) -> object:
        looked_at.append(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", look)
    for number in range(40):
        (tmp_path / f"d{number}/e").mkdir(parents=True)
        (tmp_path / f"d{number}/{number}.txt").write_text("x")
        (tmp_path / f"d{number}/e/a.bin").write_bytes(b"\0")
    said = _refused(run, "-f", name.format(tmp_path))
    assert "holds more than 100 files and folders; name a part of it" in said
    assert len(looked_at) < 100


def test_links_in_circles_below_a_pattern(run: Run, session: FakeSession, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("notes")
    for name in ("x", "y"):  # glob of the standard library would go 2^40 ways
        (tmp_path / name).symlink_to(".")
    assert run("ask", "-f", f"{tmp_path}/**/*.txt", "What?").code == 0
    assert [d.text for d in session.asked[0][0].documents] == ["notes"]


def test_standard_input_has_the_limit_of_files(tmp_path: Path) -> None:
    done = shell("yes | rqchat ask --no-log What?", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "standard input has more than 500 MB, which is the limit" in done.stderr


def test_standard_input_that_does_not_end_is_said_where_there_is_no_terminal(
    tmp_path: Path,
) -> None:
    running = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "ask", "--no-log", "What?"],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}",
            "XDG_DATA_HOME": str(tmp_path),
            "XDG_CONFIG_HOME": "/nonexistent",
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert running.stderr is not None
    assert running.stderr.readline() == b"waiting for standard input, which has not ended yet\n"
    out, _ = running.communicate(b"notes", timeout=120)
    assert (running.returncode, out[:5]) == (0, b"word0")


def test_a_text_that_no_context_holds_is_a_line(run: Run, session: FakeSession) -> None:
    said = _refused(run, stdin=b"y\n" * 40_000_000)
    assert "standard input has 80 MB of text or more; the limit is 64 MB" in said


@pytest.mark.parametrize("kind", ["DDS", "ICO", "PPM", "TGA", "JPEG2000", "SGI"])
def test_only_promised_kinds_of_pictures_are_opened(
    run: Run, session: FakeSession, tmp_path: Path, kind: str
) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "cat", kind)
    said = _refused(run, "-i", str(tmp_path / "cat"))
    assert "no picture that can be read; PNG, JPEG, WebP, GIF, BMP and TIFF work" in said


@pytest.mark.parametrize("size", [(1, 6_400_000), (201 * 64, 64)])
def test_thin_pictures_are_refused_before_they_are_decoded(
    run: Run,
    session: FakeSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: tuple[int, int],
) -> None:
    Image.new("L", size).save(tmp_path / "thin.png")
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    said = _refused(run, "-i", str(tmp_path / "thin.png"))
    assert "one side may be 200 times the other at most, so cut it into parts" in said
