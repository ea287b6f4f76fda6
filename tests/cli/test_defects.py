"""Defects found in other assistants' code, of their inputs and pipes: none of them is ours.

The chat's own are in the tests of the chat.
"""

from __future__ import annotations

import io
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.cli.fake_session import FakeSession
from tests.cli.test_app import environment, process
from tests.cli.test_store_processes import saved

ENDLESS = """
import itertools, time
from rqchat.cli import app, open_session
from tests.cli.fake_session import FakeSession

def endless():
    for number in itertools.count():
        time.sleep(0.01)
        yield f"word{number} "

fake = FakeSession()
fake.script = endless()
open_session.open_session = lambda settings, system, on_event: fake
app.main()
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_an_interrupted_one_shot_does_not_exit_with_0_as_if_it_were_whole(
    tmp_path: Path, number: int, code: int
) -> None:
    running = subprocess.Popen(
        process("ask", "Count", code=ENDLESS),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment() | {"XDG_DATA_HOME": str(tmp_path)},
    )
    assert running.stdout is not None
    start = running.stdout.read(6)
    running.send_signal(number)
    out, err = running.communicate(timeout=120)
    assert running.returncode == code
    assert (start + out).startswith(b"word0 ")
    assert b"[interrupted: the answer is not complete]" in err
    (turn,) = saved(tmp_path)
    assert (turn.answer.strip(), turn.state) == ((start + out).decode().strip(), "interrupted")


def test_a_reader_that_has_seen_enough_ends_it_quietly() -> None:
    pipeline = f"'{sys.executable}' -c '{ENDLESS.replace(chr(39), chr(34))}' ask Count | head -c 5"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {pipeline}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment(),
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"word0", b"")


def test_a_png_that_is_no_png_is_a_line_and_not_the_end_of_the_world(
    run: Run, session: FakeSession, tmp_path: Path
) -> None:
    (tmp_path / "cat.png").write_text("<html>404</html>")
    result = run("ask", "-i", str(tmp_path / "cat.png"), "What?")
    assert (result.code, result.out, result.err.count("\n")) == (1, "", 1)
    assert "cat.png is a web page, not the picture itself" in result.err


def test_a_prompt_that_is_too_long_is_not_cut_in_the_middle(
    run: Run, tiny_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "book.txt").write_text("x" * 1500)
    options = ["--model", str(tiny_folder), "--device", "cpu", "--context", "1000", "--no-cache"]
    result = run("ask", *options, "--json", "-f", str(tmp_path / "book.txt"), "Who?")
    assert (result.code, result.out) == (4, "")
    (line,) = [line for line in result.err.splitlines() if line.startswith("rqchat: ")]
    assert re.search(r"the prompt has 1,[56]\d\d tokens", line)
    assert "but the context holds 1,000 with the answer" in line
    for way_out in ("--truncate middle", "--context 2048"):
        assert way_out in line


@pytest.mark.parametrize("arguments", [["ask"], [], ["ask", "-f", "-"], ["ask", "-q", " "]])
def test_the_end_of_input_is_not_read_again_and_again(
    run: Run, session: FakeSession, arguments: list[str]
) -> None:
    result = run(*arguments, stdin=b"")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)


def test_piped_text_is_not_cut_and_a_question_has_more_than_400_characters(
    run: Run, session: FakeSession
) -> None:
    session.context_tokens = 10**7
    text, question = "whale " * 200_000, "why? " * 1000
    assert run("ask", question, stdin=text.encode()).code == 0
    turn = session.asked[0][0]
    assert (turn.documents[0].text, turn.text) == (text, question.strip())


def test_a_long_document_shows_how_far_it_is_read_also_in_a_pipe(
    run: Run, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "stderr", err := Terminal())
    options = ["--model", str(tiny_folder), "--device", "cpu", "--no-cache", "--max-tokens", "1"]
    assert run("ask", *options, "Who?", stdin=b"x" * 1500).code == 0
    shown = [part for part in err.getvalue().split("\r") if "reading " in part]
    assert any("tokens/s" in part and "left" in part and " 0 %" not in part for part in shown)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["plan", "--vram", "1GiB", "--model", "google/gemma-4-31B-it", "--offline"], 3),
        (["ask", "-i", "/nowhere/cat.png", "What?"], 1),
        (["ask", "--kv-bits", "7", "What?"], 2),
        (["config", "show", "--preset", "none"], 2),
        (["ask", "--system", "caf\udce9", "What?"], 2),
        (["sessions", "show", "\udce9"], 2),
    ],
)
def test_exit_codes(run: Run, session: FakeSession, arguments: list[str], code: int) -> None:
    result = run(*arguments)
    assert (result.code, result.out, result.err.count("\n")) == (code, "", 1), result.err
    assert result.err.startswith("rqchat: ")
