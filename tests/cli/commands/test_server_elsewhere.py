"""`--server`: the program against recorded answers of vLLM and of servers that do worse."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Result, Run
from tests.cli.keyboard import Keyboard
from tests.engine.remote.server_stub import ServerStub, chunk, stub_server

COUNT = "/v1/messages/count_tokens"
SCHEMA = '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}'


@pytest.fixture
def server() -> Iterator[ServerStub]:
    with stub_server() as stub:
        stub.counts[COUNT] = {"input_tokens": 20}
        yield stub


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RQCHAT_API_KEY", "OPENAI_API_KEY", "RQCHAT_SERVER", "RQCHAT_MODEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RQCHAT_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture
def ask(run: Run, server: ServerStub) -> Run:
    def ask_it(*arguments: str, stdin: bytes | None = None) -> Result:
        return run("ask", "--server", server.url, *arguments, stdin=stdin)

    return ask_it


def test_vllm_streams_thoughts_apart_and_gets_gemmas_sampling(ask: Run, server: ServerStub) -> None:
    usage = {"prompt_tokens": 20, "completion_tokens": 5, "prompt_tokens_details": None}
    server.streams(
        chunk({"role": "assistant", "content": ""}),
        *(chunk({"reasoning": text}) for text in ("A ", "cat?")),
        *(chunk({"content": text}) for text in ("A ", "cat.")),
        chunk({"content": ""}, "stop", stop_reason=106),
        chunk(usage=usage),
        "data: [DONE]\n\n",
    )
    result = ask("--think", "--json", "--system", "Be brief.", "What is it?")
    assert result.code == 0, result.err
    record = json.loads(result.out)
    assert record["answer"] == "A cat."
    assert "A cat?" in result.err
    assert (record["context"], record["weights"]) == (16_384, None)
    assert record["tokens"] == {"input": 20, "image": 0, "cached": 0, "output": 5}
    assert record["model"] == f"{server.url}#gemma"
    (body,) = server.questions
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is it?"},
    ]
    assert [body[name] for name in ("temperature", "top_p", "top_k", "min_p")] == [1.0, 0.95, 64, 0]
    assert body["chat_template_kwargs"] == {"enable_thinking": True}
    assert body["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ((chunk({"content": "Half"}),), "without an end"),
        ((chunk({"content": "Half"}), "data: [DONE]\n\n"), "without an end"),
        (
            (chunk({"content": "Half"}), 'data: {"error": {"message": "CUDA out of memory"}}\n\n'),
            "CUDA out of memory",
        ),
        ((chunk({"content": "Half"}), "data: {bro\n\n"), "does not speak"),
        ((chunk({"content": "Half"}, "content_filter"), "data: [DONE]\n\n"), "content_filter"),
    ],
)
def test_an_answer_that_breaks_off_is_none(
    ask: Run, server: ServerStub, lines: tuple[str, ...], said: str
) -> None:
    server.streams(*lines)
    result = ask("--json", "Hello")
    assert result.code == 1
    assert result.out == ""
    assert said in result.err
    assert "Traceback" not in result.err


def test_too_long_is_known_before_and_said_with_both_counts(ask: Run, server: ServerStub) -> None:
    server.counts[COUNT] = {"input_tokens": 20_000}
    result = ask("Hello")
    assert result.code == 4
    assert "20,000 tokens" in result.err
    assert "16,384" in result.err
    assert not server.questions


def test_vllm_refuses_a_prompt_that_is_too_long(ask: Run, server: ServerStub) -> None:
    del server.counts[COUNT]
    server.refuses(
        400,
        message="This model's maximum context length is 16384 tokens. However, your request has at"
        " least 16385 input tokens.",
        type="BadRequestError",
        param="input_tokens",
        code=400,
    )
    result = ask("Hello")
    assert result.code == 4
    assert "16,385" in result.err
    assert "16,384" in result.err


def test_a_prompt_that_was_cut_without_a_word_is_no_answer(ask: Run, server: ServerStub) -> None:
    server.models = [{"id": "llama"}]
    server.counts.clear()
    server.says("Sure.", prompt_tokens=2048, completion_tokens=2)
    result = ask("--context", "9000", "Summarize", stdin=b"word " * 5000)
    assert result.code == 4
    assert "2,048" in result.err
    assert "an estimate" in result.err


def test_without_a_way_to_count_it_says_that_it_estimates(ask: Run, server: ServerStub) -> None:
    server.counts.clear()
    server.says("Yes.", prompt_tokens=11, completion_tokens=2)
    result = ask("Is this a question?")
    assert (result.code, result.out) == (0, "Yes.\n")
    assert "estimate" in result.err
    server.counts["/tokenize"] = {"count": 11}
    assert "estimate" not in ask("Is this a question?").err


def test_json_that_does_not_match_is_a_failure(ask: Run, server: ServerStub) -> None:
    server.says('{"a": "one"}', prompt_tokens=20, completion_tokens=5)
    result = ask("--schema", SCHEMA, "Give me JSON")
    assert (result.code, result.out) == (1, "")
    assert "$.a" in result.err
    assert server.questions[0]["response_format"]["json_schema"]["schema"] == json.loads(SCHEMA)
    server.answers.clear()
    server.says('{"a": 1}', prompt_tokens=20, completion_tokens=5)
    assert json.loads(ask("--schema", SCHEMA, "Give me JSON").out) == {"a": 1}
    server.answers.clear()
    server.streams(chunk({"content": "{" + " " * 300}), *[chunk({"content": " " * 9})] * 50)
    result = ask("--schema", SCHEMA, "Give me JSON")
    assert result.code == 1
    assert "fell into a loop twice" in result.err


def test_a_strict_server_is_asked_again_without_what_it_refuses(
    ask: Run, server: ServerStub
) -> None:
    for name in ("top_k", "chat_template_kwargs"):
        server.refuses(400, message=f"Unrecognized request argument supplied: {name}")
    server.says("Yes.", prompt_tokens=20, completion_tokens=2)
    result = ask("Hello?")
    assert (result.code, result.out) == (0, "Yes.\n")
    assert "top_k" in result.err
    assert "top_k" in server.questions[1] or "chat_template_kwargs" in server.questions[1]
    assert not {"top_k", "chat_template_kwargs"} & server.questions[2].keys()


def test_one_of_several_models_is_named(ask: Run, server: ServerStub) -> None:
    server.models.append({"id": "google/gemma-4-31B-it", "max_model_len": 99})
    server.says("Yes.")
    result = ask("Hello")
    assert result.code == 1
    assert "gemma, google/gemma-4-31B-it" in result.err
    assert ask("-m", "31b", "--json", "Hello").code == 0
    assert server.questions[-1]["model"] == "google/gemma-4-31B-it"
    assert "no model 'qwen'" in ask("-m", "qwen", "Hello").err


def test_keys_come_from_the_environment_or_a_file_of_ones_own(
    ask: Run, server: ServerStub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.says("Yes.")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-openai")
    assert ask("Hello").code == 0
    assert not any("sk-of-openai" in key for key in server.keys)
    monkeypatch.setenv("RQCHAT_API_KEY", "sk-environment")
    ask("Hello")
    assert server.keys[-1] == "Bearer sk-environment"
    path = tmp_path / "key"
    path.write_text("sk-secret\n")
    path.chmod(0o644)
    result = ask("--key-file", str(path), "Hello")
    assert result.code == 2
    assert "chmod 600" in result.err
    path.chmod(0o600)
    ask("--key-file", str(path), "Hello")
    assert server.keys[-1] == "Bearer sk-secret"
    server.answers[:] = []
    server.refuses(401, message="Incorrect API key provided: sk-secret")
    result = ask("--key-file", str(path), "Hello")
    assert result.code == 2
    assert "sk-secret" not in result.err
    assert "refuses the key" in result.err


@pytest.mark.parametrize("address", ["http://me:sk-secret@localhost:1/v1", "http://me@localhost"])
def test_no_key_stands_in_an_address(run: Run, address: str) -> None:
    result = run("ask", "--server", address, "Hello")
    assert result.code == 2
    assert "sk-secret" not in result.err
    assert "RQCHAT_API_KEY" in result.err


def test_a_conversation_goes_on_at_its_server(ask: Run, run: Run, server: ServerStub) -> None:
    server.says("A cat.")
    ask("What is it?")
    result = run("ask", "-c", "And that?")
    assert (result.code, result.out) == (0, "A cat.\n")
    assert [message["content"] for message in server.questions[-1]["messages"]] == [
        *("What is it?", "A cat.", "And that?")
    ]


def test_the_chat_is_the_same(keys: Keyboard, run: Run, server: ServerStub) -> None:
    server.says("A **cat**.", prompt_tokens=20, completion_tokens=4)
    lines = ("What is it?", "/context", "/plan", "/retry", "/undo", "/system Be brief.", "And now?")
    keys.send_text("".join(f"{line}\r" for line in lines) + "\x03\x04")
    result = run("-m", server.url)
    assert result.code == 0
    assert "room for 16,384 tokens" in result.err
    assert server.url.split("/")[2] in result.err
    assert "of 16,384 tokens" in result.err
    assert "plans its own memory" in result.err
    roles = [[each["role"] for each in body["messages"]] for body in server.questions]
    assert roles == [["user"], ["user"], ["system", "user", "assistant", "user"]]


def test_an_answer_is_made_again_at_its_server(ask: Run, run: Run, server: ServerStub) -> None:
    server.says("A cat.", prompt_tokens=20, completion_tokens=4)
    name = json.loads(ask("--json", "--seed", "7", "What is it?").out)["session"]
    result = run("replay", name)
    assert result.code == 0, result.err
    assert [body["seed"] for body in server.questions] == [7, 7]
    assert "the model's files" in run("verify", "-m", server.url).err


def test_a_stranger_is_named_and_offline_means_offline(run: Run) -> None:
    result = run("ask", "--server", "http://192.0.2.1:9", "--offline", "Hello")
    assert result.code == 2
    assert "--offline" in result.err


def test_ctrl_c_keeps_what_came_and_closes_the_connection_all_without_torch(
    server: ServerStub, tmp_path: Path
) -> None:
    server.holds = True
    server.streams(chunk({"content": "Once upon"}), chunk({"content": " a time"}))
    words = ["ask", "--server", server.url, "--jsonl", "A story"]
    code = (
        f"import sys; from rqchat.cli import app\ntry: app.main({words})\n"
        "finally: print([n for n in ('torch', 'transformers') if n in sys.modules])"
    )
    program = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, bufsize=1,
        env={**os.environ, "RQCHAT_CONFIG": str(tmp_path / "none")},
    )  # fmt: skip
    assert program.stdout is not None
    for line in program.stdout:
        if json.loads(line).get("text") == " a time":
            break
    program.send_signal(signal.SIGINT)
    *_, done, modules = program.stdout
    program.stdout.close()
    assert program.wait(30) == 130
    record = json.loads(done)
    assert (record["event"], record["stop_reason"]) == ("done", "interrupted")
    assert record["answer"] == "Once upon a time"
    assert server.gone.wait(10)
    assert modules == "[]\n"
