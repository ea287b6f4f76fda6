"""Several questions over one reading, cutting where it is asked for, and the forms of output."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rqchat.engine.events import Event
from tests.cli.conftest import Run
from tests.cli.fake_session import FakeSession


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_questions_are_answered_one_by_one_as_json_lines(
    run: Run, session: FakeSession, tmp_path: Path
) -> None:
    (tmp_path / "list.txt").write_text("Third?\n\n  Fourth?\n")
    (tmp_path / "doc.txt").write_text("Once upon a time.")
    documents = ["-f", str(tmp_path / "doc.txt")]
    questions = ["-q", "First?", "-q", "Second?", "--questions", str(tmp_path / "list.txt")]
    result = run("ask", *documents, *questions)
    assert result.code == 0
    asked = ["First?", "Second?", "Third?", "Fourth?"]
    assert [line["question"] for line in _lines(result.out)] == asked
    assert {line["answer"] for line in _lines(result.out)} == {"It is a cat."}
    answered = [turn for turn, _ in session.asked][-4:]
    assert [turn.text for turn in answered] == asked
    assert all(turn.documents == answered[0].documents for turn in answered)
    assert len(session.messages) == 2  # each was asked on its own


def test_none_is_answered_where_one_is_too_long(run: Run, session: FakeSession) -> None:
    result = run("ask", "-q", "One?", "-q", "word " * 2000)
    assert (result.code, result.out, session.asked) == (4, "", [])


def test_questions_from_standard_input(run: Run, session: FakeSession) -> None:
    assert len(_lines(run("ask", "--questions", "-", stdin=b"One?\nTwo?\n").out)) == 2


def test_a_pipe_beside_questions_is_the_document(run: Run, session: FakeSession) -> None:
    run("ask", "-q", "One?", stdin=b"piped")
    assert [document.text for document in session.asked[-1][0].documents] == ["piped"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-q", "a", "b"], "give one PROMPT, or several questions"),
        (["-q", " "], "there is no question"),
        (["-q", "a", "--raw"], "leave out --raw"),
        (["--json", "--jsonl", "a"], "take one of them"),
        (["--raw", "--json", "a"], "take one of them"),
        (["--truncate", "start", "a"], "--truncate is 'start'; allowed are head, middle, tail"),
    ],
)
def test_wrong_usage(run: Run, session: FakeSession, arguments: list[str], said: str) -> None:
    result = run("ask", *arguments)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert said in result.err
    assert session.settings is None


def test_ctrl_c_ends_all_questions_and_keeps_the_text(run: Run, session: FakeSession) -> None:
    session.script = ["It is ", signal.SIGINT, "a cat."]
    result = run("ask", "-q", "One?", "-q", "Two?")
    (line,) = _lines(result.out)
    assert (result.code, line["answer"], line["stop_reason"]) == (130, "It is ", "interrupted")


def test_raw_is_the_models_text_alone(run: Run, session: FakeSession) -> None:
    session.script = ["a\tb\r\n", "c \x1b[1m"]
    assert run("ask", "--raw", "x").out == "a\tb\r\nc \x1b[1m"


def test_events_are_json_lines_in_order(run: Run, session: FakeSession) -> None:
    session.thoughts = ["Four legs."]
    result = run("ask", "--jsonl", "What?")
    lines = _lines(result.out)
    assert [line["event"] for line in lines] == [
        *("notice", "load", "prefill", "thought", "text", "text", "done"),
    ]
    assert lines[2] == {
        "event": "prefill",
        "done_tokens": 6,
        "total_tokens": 6,
        "cached_tokens": 0,
        "elapsed_s": 0.5,
    }
    assert "".join(line["text"] for line in lines if line["event"] == "text") == "It is a cat."
    assert (lines[-1]["answer"], lines[-1]["stop_reason"]) == ("It is a cat.", "eos")


def test_events_end_with_the_error(run: Run, session: FakeSession) -> None:
    result = run("ask", "--jsonl", "word " * 2000)
    assert result.code == 4
    assert _lines(result.out)[-1] == {
        "event": "error",
        "message": "2005 tokens are more than 1000",
        "exit_code": 4,
    }


def test_documents_are_cut_where_it_is_asked_and_it_is_said(
    run: Run, session: FakeSession, tmp_path: Path
) -> None:
    (tmp_path / "long.txt").write_text(" ".join(f"w{i}" for i in range(3000)))
    asked = ["ask", "-f", str(tmp_path / "long.txt")]
    assert run(*asked, "Who?").code == 4
    result = run(*asked, "--quiet", "--json", "--truncate", "middle", "--max-tokens", "50", "Who?")
    (record,) = _lines(result.out)
    kept = record["tokens"]["input"]
    assert kept <= 1000 - 50
    assert record["tokens"]["dropped"] == 3006 - kept
    assert f"left out {3006 - kept:,} of 3,006 tokens at the middle of the documents" in result.err
    text = session.asked[-1][0].documents[0].text
    assert text.startswith("w0 w1 ")
    assert text.endswith(" w2999")


def test_what_fits_is_not_cut(run: Run, session: FakeSession, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a short one")
    result = run("ask", "-f", str(tmp_path / "a.txt"), "--truncate", "tail", "--json", "Who?")
    assert _lines(result.out)[0]["tokens"]["dropped"] == 0
    assert "left out" not in result.err
    assert session.asked[-1][0].documents[0].text == "a short one"


SCHEMA = '{"type": "object", "properties": {"x": {"type": "integer"}}}'


def test_an_answer_held_to_a_schema_is_shown_when_it_is_whole(
    run: Run, session: FakeSession, tmp_path: Path
) -> None:
    (tmp_path / "s.json").write_text(SCHEMA)
    session.script = ['{"x": ', "1}"]
    assert run("ask", "--schema", str(tmp_path / "s.json"), "How many?").out == '{"x": 1}\n'
    assert json.loads(session.schema or "") == json.loads(SCHEMA)
    # A string without an end would go on until the context has one
    assert session.asked[-1][1].max_tokens == 4096
    run("ask", "--schema", SCHEMA, "--max-tokens", "9", "How many?")
    assert session.asked[-1][1].max_tokens == 9


@pytest.mark.parametrize("form", [[], ["--raw"], ["--json"], ["-q", "How many?"]])
def test_json_that_was_cut_short_is_not_shown(
    run: Run, session: FakeSession, form: list[str]
) -> None:
    session.script = ['{"x": ']
    session.reason = "length"
    question = [] if "-q" in form else ["How many?"]
    result = run("ask", "--schema", SCHEMA, *form, *question)
    assert (result.code, result.out) == (1, "")
    assert "the JSON was not whole after 1 tokens, so none of it is shown" in result.err


@pytest.mark.parametrize("recovers", [True, False])
def test_json_that_loops_is_asked_for_once_more(
    run: Run, session: FakeSession, monkeypatch: pytest.MonkeyPatch, recovers: bool
) -> None:
    session.script = ['{"x": ', "1111"]
    session.reason = "repetition"
    ask = session.ask

    def asked(*arguments: Any, **options: Any) -> Iterator[Event]:
        yield from ask(*arguments, **options)
        if recovers:
            session.script = ['{"x": 1}']
            session.reason = "eos"

    monkeypatch.setattr(session, "ask", asked)
    result = run("ask", "--schema", SCHEMA, "--seed", "5", "How many?")
    assert "once more with another seed and a repetition penalty of 1.15" in result.err
    first, second = (sampling for _, sampling in session.asked)
    assert (first.repetition_penalty, second.repetition_penalty) == (1.0, 1.15)
    assert first.seed != second.seed
    if recovers:
        assert (result.code, result.out) == (0, '{"x": 1}\n')
    else:
        assert (result.code, result.out) == (1, "")
        assert '\n{"x": 1111\n' in result.err
        assert "fell into a loop twice" in result.err


def test_a_schema_that_cannot_be_guaranteed_opens_no_model(run: Run, session: FakeSession) -> None:
    result = run("ask", "--schema", '{"not": {}}', "x")
    assert (result.code, result.out) == (2, "")
    assert "cannot be guaranteed" in result.err
    assert session.settings is None


def test_with_a_model_documents_are_read_once_and_json_matches(
    run: Run, tiny_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "doc.txt").write_text("The code of the gate is 4711. " * 20)
    schema = '{"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2}'
    asked = ["ask", "--no-cache", "--model", str(tiny_folder), "--device", "cpu"]
    asked += ["-f", str(tmp_path / "doc.txt"), "--schema", schema, "--seed", "1"]
    result = run(*asked, "-q", "What is it?", "-q", "Is it?")
    first, second = _lines(result.out)
    assert (first["tokens"]["cached"], first["stop_reason"]) == (0, "eos")
    assert second["tokens"]["cached"] > 600  # a token is a byte, and the document has 600
    assert second["tokens"]["cached"] < second["tokens"]["input"]
    assert all(len(json.loads(line["answer"])) == 2 for line in (first, second))
    (alone,) = _lines(run(*asked, "-q", "Is it?").out)
    assert alone["answer"] == second["answer"]
    exactly = ["--max-tokens", str(alone["tokens"]["output"])]
    (whole,) = _lines(run(*asked, *exactly, "-q", "Is it?").out)
    assert (whole["answer"], whole["stop_reason"]) == (alone["answer"], "eos")
    assert run(*asked, "--max-tokens", str(alone["tokens"]["output"] - 1), "-q", "Is it?").code == 1
