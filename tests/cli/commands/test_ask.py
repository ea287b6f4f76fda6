"""`rqchat ask`: what lands on which stream, with which exit code."""

from __future__ import annotations

import contextlib
import io
import json
import re
import signal
import sys
from pathlib import Path

import pytest
from PIL import Image

from rqchat.cli import open_session
from rqchat.engine.conversation import UserTurn
from rqchat.engine.settings import SamplingSettings, Settings
from tests.cli.conftest import NoGpuError, Run
from tests.cli.fake_session import FakeSession

NOTICE = "no GPU found: using the pocket model\n"


def test_answer_alone_is_on_stdout(run: Run, session: FakeSession) -> None:
    result = run("ask", "What is it?")
    assert (result.code, result.out, result.err) == (0, "It is a cat.\n", NOTICE)
    assert session.asked == [(UserTurn("What is it?"), SamplingSettings())]


def test_an_answer_that_ends_its_line_gets_no_second_one(run: Run, session: FakeSession) -> None:
    session.script = ["a\n"]
    assert run("ask", "x").out == "a\n"


def test_quiet_leaves_stderr_empty(run: Run, session: FakeSession) -> None:
    assert run("ask", "--quiet", "What is it?").err == ""


def test_json_is_one_object_with_the_contracts_keys(run: Run, session: FakeSession) -> None:
    result = run("ask", "--json", "What is it?")
    saved_as = json.loads(result.out)["session"]
    assert run("ask", "--json", "--resume", saved_as, "And what else?").code == 0
    assert [message.text for message in session.messages][::2] == ["What is it?", "And what else?"]
    assert json.loads(result.out) == {
        "answer": "It is a cat.",
        "session": saved_as,
        "model": "pocket",
        "weights": "bf16",
        "kv_bits": 4,
        "context": 1000,
        "tokens": {"input": 8, "image": 0, "cached": 0, "output": 4},
        "timing": {
            "load_s": 1.0,
            "prefill_s": 0.5,
            "decode_s": 0.25,
            "prefill_tokens_per_s": 16.0,
            "decode_tokens_per_s": 16.0,
        },
        "memory": {"planned_bytes": 3_000_000, "peak_bytes": 2_000_000},
        "stop_reason": "eos",
    }
    assert result.out.count("\n") == 1


def test_json_names_no_session_where_none_is_saved(run: Run, session: FakeSession) -> None:
    assert json.loads(run("ask", "--json", "--no-log", "What is it?").out)["session"] is None


def test_json_errors_leave_stdout_empty(run: Run, session: FakeSession) -> None:
    result = run("ask", "--json", "word " * 2000)
    assert (result.code, result.out) == (4, "")
    assert result.err.endswith("rqchat: 2005 tokens are more than 1000\n")


def test_stats_go_to_stderr(run: Run, session: FakeSession) -> None:
    result = run("ask", "--stats", "--quiet", "What is it?")
    assert result.out == "It is a cat.\n"
    assert "4 tokens in 0.2 s, 16.0 tokens/s; stopped by eos" in result.err
    assert "seed 42" in result.err


def test_options_reach_settings_and_sampling(run: Run, session: FakeSession) -> None:
    options = "--model m --weights int4 --kv-bits 3 --context 500 --image-tokens 70 --device cpu"
    draws = "--max-tokens 9 --temperature 0 --top-p 0.5 --top-k 7 --seed 11"
    run("ask", *options.split(), "--offline", *draws.split(), "-s", "Be brief.", "Hi")
    assert session.settings == Settings("m", "int4", 3, 500, 70, None, "cpu", offline=True)
    assert session.system == "Be brief."
    assert session.asked[0][1] == SamplingSettings(0.0, 0.5, 7, seed=11, max_tokens=9)


def test_thoughts_go_to_stderr(run: Run, session: FakeSession) -> None:
    session.thoughts = ["Four legs."]
    result = run("ask", "--think", "--quiet", "What is it?")
    assert session.thinking
    assert (result.out, result.err) == ("It is a cat.\n", "Four legs.\n\n")


def test_environment_gives_way_to_options(
    run: Run, session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RQCHAT_MODEL", "from-environment")
    run("ask", "Hi")
    assert session.settings == Settings("from-environment")
    run("ask", "--model", "from-option", "Hi")
    assert session.settings == Settings("from-option")


def test_piped_text_is_a_document_before_the_question(run: Run, session: FakeSession) -> None:
    run("ask", "Who?", stdin=b"Call me Ishmael.\n")
    turn = session.asked[0][0]
    assert turn.text == "Who?"
    assert [document.text for document in turn.documents] == ["Call me Ishmael.\n"]


def test_piped_text_alone_is_the_question(run: Run, session: FakeSession) -> None:
    run("ask", stdin=b"Who are you?\n")
    assert session.asked[0][0] == UserTurn("Who are you?")


def test_documents_keep_their_order(run: Run, session: FakeSession, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("alpha")
    (tmp_path / "b.txt").write_text("beta")
    names = ["-f", str(tmp_path / "a.txt"), "-f", "-", "-f", str(tmp_path / "b.txt")]
    run("ask", *names, "Who?", stdin=b"piped")
    texts = [document.text for document in session.asked[0][0].documents]
    assert texts == ["alpha", "piped", "beta"]


def test_empty_pipe_is_said(run: Run, session: FakeSession) -> None:
    result = run("ask", "--quiet", "Who?", stdin=b"")
    assert result.err == ""
    result = run("ask", "Who?", stdin=b"")
    assert result.err == "standard input is empty: no document was read\n" + NOTICE


def test_pictures_from_a_file_and_from_stdin(
    run: Run, session: FakeSession, picture_file: Path
) -> None:
    run("ask", "--image", str(picture_file), "-i", "-", "What?", stdin=picture_file.read_bytes())
    sizes = [(picture.width, picture.height) for picture in session.asked[0][0].pictures]
    assert sizes == [(64, 48), (64, 48)]
    assert session.asked[0][0].documents == ()


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "webp"])
def test_a_piped_picture_is_one(run: Run, session: FakeSession, kind: str) -> None:
    Image.new("RGB", (64, 48), "red").save(piped := io.BytesIO(), kind)
    assert run("ask", "What?", stdin=piped.getvalue()).code == 0
    (turn, _), *_ = session.asked
    assert [(picture.name, picture.width) for picture in turn.pictures] == [("standard input", 64)]
    assert turn.documents == ()


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "said"),
    [
        ([], None, 2, "there is no question"),
        ([" \n"], None, 2, "there is no question"),
        ([], b"  \n", 2, "there is no question"),
        (["-f", "-"], b"text", 2, "there is no question"),
        (["-f", "-", "-i", "-", "x"], b"text", 2, "can be read only once"),
        (["--temperature", "-1", "x"], None, 2, "--temperature is -1.0; it goes from 0 to 10"),
        (["--max-tokens", "0", "x"], None, 2, "--max-tokens is 0; an answer needs"),
        (["--kv-bits", "7", "x"], None, 2, "--kv-bits is 7; allowed are 2, 3, 4"),
        (["--kv-bits", "many", "x"], None, 2, "'--kv-bits'"),
        (["--imgae", "a.png", "x"], None, 2, "--image"),
        (["-f", "missing.txt", "x"], None, 1, "missing.txt does not exist"),
        (["-i", "missing.png", "x"], None, 1, "missing.png does not exist"),
        (["-i", "."], None, 2, "there is no question"),
        (["-i", ".", "x"], None, 1, "is a folder"),
        (["x"], b"\x00\x01\x02", 1, "standard input is a binary file"),
        (["x"], b"caf\xe9", 1, "standard input is not valid UTF-8"),
        (["x\udcff"], None, 2, "no valid UTF-8"),
    ],
)
def test_bad_input_is_one_line_and_no_model_is_opened(
    run: Run,
    session: FakeSession,
    arguments: list[str],
    stdin: bytes | None,
    code: int,
    said: str,
) -> None:
    result = run("ask", *arguments, stdin=stdin)
    assert (result.code, result.out) == (code, "")
    assert said in result.err
    assert result.err.startswith("rqchat: ")
    assert result.err.count("\n") == 1
    assert session.settings is None


def test_the_errors_own_exit_code_is_used(run: Run, session: FakeSession) -> None:
    session.opening_failure = NoGpuError("it does not fit")
    result = run("ask", "Hi")
    assert (result.code, result.out, result.err) == (3, "", NOTICE + "rqchat: it does not fit\n")


def test_progress_is_gone_before_an_error(
    run: Run, session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", err := Terminal())
    session.script = []
    session.opening_failure = NoGpuError("no")
    assert run("ask", "Hi").code == 3
    before_error = err.getvalue()[: err.getvalue().index("rqchat: no")]
    assert "loading" in before_error
    assert re.search(r"\r\x1b\[K(\x1b\[[0-9;]*m)?$", before_error)


def test_ctrl_c_keeps_the_text_and_ends_with_130(run: Run, session: FakeSession) -> None:
    session.script = ["It is ", signal.SIGINT, "a cat."]
    result = run("ask", "What is it?")
    assert (result.code, result.out) == (130, "It is \n")
    assert result.err == NOTICE + "[interrupted: the answer is not complete]\n"


def test_ctrl_c_in_json_mode_still_gives_the_object(run: Run, session: FakeSession) -> None:
    session.script = ["It is ", signal.SIGINT, "a cat."]
    result = run("ask", "--json", "What is it?")
    record = json.loads(result.out)
    assert (result.code, record["answer"], record["stop_reason"]) == (130, "It is ", "interrupted")


def test_a_second_ctrl_c_leaves_at_once(
    run: Run, session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.script = ["It is ", signal.SIGINT, signal.SIGINT]
    handler = signal.getsignal(signal.SIGINT)

    monkeypatch.setattr(session, "interrupt", lambda: None)
    assert run("ask", "What is it?").code == 130
    assert signal.getsignal(signal.SIGINT) is handler


def test_an_ignored_ctrl_c_stays_ignored(run: Run, session: FakeSession) -> None:
    session.script = ["It is ", signal.SIGINT, "a cat."]
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert run("ask", "What is it?").out == "It is a cat.\n"
    finally:
        signal.signal(signal.SIGINT, handler)


def test_ctrl_c_while_the_model_loads(run: Run, session: FakeSession) -> None:
    session.opening_failure = KeyboardInterrupt()
    result = run("ask", "Hi")
    assert (result.code, result.out, result.err) == (130, "", NOTICE)


def test_ctrl_c_swallowed_by_an_import_still_ends_it(
    run: Run, session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_deaf(*arguments: object) -> FakeSession:
        with contextlib.suppress(BaseException):
            signal.raise_signal(signal.SIGINT)
        return session

    monkeypatch.setattr(open_session, "open_session", open_deaf)
    assert run("ask", "Hi").code == 130
    assert session.asked == []


def test_a_bug_shows_its_traceback(run: Run, session: FakeSession) -> None:
    session.failure = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        run("ask", "Hi")


def test_control_characters_do_not_reach_the_terminal(run: Run, session: FakeSession) -> None:
    session.script = ["\x1b", "[31mred\x07\u202e \x9b2J\r\nend"]
    assert run("ask", "x").out == "[31mred 2J\nend\n"


def test_an_output_encoding_without_the_character_shows_a_question_mark(
    run: Run, session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    session.script = ["caf\u00e9"]
    assert run("ask", "x").code == 0
    assert written.getvalue() == b"caf?\n"
