"""`python -m tests.gpu_smoke`: the ways through the program on a GPU, each in seconds.

Two turns across places that stood at 65 to 80 tokens, a picture, captured against plain steps,
another width of the cache, a cache that is saved and loaded, and a second stream; with the pocket
model, which needs no download. `few` answers once with five tokens, for a sanitizer. `imports`
tries every module that `.ci/gpu` runs, and ends with 3 and "no GPU" where there is none. A line for
each step; exit code 1 if any failed.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from rotorquant import RotorQuantCache
from rqchat.engine.conversation import UserTurn
from rqchat.engine.events import Notice, TextDelta
from rqchat.engine.generation.generate import Steps
from rqchat.engine.inputs.pictures import read_picture
from rqchat.engine.session import ChatSession
from rqchat.engine.settings import SamplingSettings, Settings

_ROOT = Path(__file__).resolve().parents[1]
_MODULES = (
    *("rqchat.bench.cards.roofline", "rqchat.bench.memory_case", "rqchat.bench.weights"),
    *("rotorquant.bench.kernels", "rotorquant.bench.tune", "rqchat.cli.app"),
    *("pytest", "hypothesis", "llguidance", "platformdirs", "pypdf", "pypdfium2", "gguf"),
    *("prompt_toolkit", "triton", "transformers", "typer", "rich", "markdown_it", "PIL"),
)
_PATHS = ("docs/images/shapes.png", "tests/engine/test_gpu.py", "tests/rotorquant/ops")
_GREEDY = SamplingSettings(temperature=0.0, max_tokens=24)


def find_missing() -> list[str]:
    """Modules that cannot be imported and paths that are not there, with the reason."""
    missing = [f"{path} is not there" for path in _PATHS if not (_ROOT / path).exists()]
    for name in _MODULES:
        try:
            importlib.import_module(name)
        except Exception as error:  # a broken package raises whatever it likes
            missing.append(f"{name}: {type(error).__name__}: {error}")
    return missing


def answer_of(session: ChatSession, question: str, picture: bool = False) -> str:
    """The answer; a notice, such as a step that could not be captured, is an error."""
    shown = (read_picture(_ROOT / "docs" / "images" / "shapes.png"),) if picture else ()
    events = list(session.ask(UserTurn(question, pictures=shown), _GREEDY))
    notices = [each.text for each in events if isinstance(each, Notice)]
    assert not notices, notices
    return "".join(each.text for each in events if isinstance(each, TextDelta))


def turns(session: ChatSession) -> None:
    """Two turns, the first of 60 to 90 tokens, each as a fresh session answers it."""
    for words in range(30, 70, 2):
        session.clear()
        question = " ".join(["stone"] * words)
        first = answer_of(session, question)
        answer_of(session, "And then?")
        session.clear()
        assert answer_of(session, question) == first, words


def picture(session: ChatSession) -> None:
    session.clear()
    seen = answer_of(session, "What is in this picture?", picture=True)
    assert "red circle" in seen, seen


def graph_against_plain(session: ChatSession) -> None:
    session.clear()
    captured = answer_of(session, "Who are you?")
    kept, session._steps = session._steps, Steps(None)
    session.clear()
    plain = answer_of(session, "Who are you?")
    session._steps = kept
    assert captured == plain, (captured, plain)


def repack_save_load(session: ChatSession) -> None:
    session.clear()
    answer_of(session, "The boats were pulled up the sand. " * 60)
    cache = session._prefix.cache
    tokens = cache.get_seq_length()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cache.safetensors"
        cache.save(path)
        loaded = RotorQuantCache.load(path, session._loaded.model)
    assert loaded.get_seq_length() == tokens
    cache.repack(4)
    assert cache.get_seq_length() == tokens
    session.clear()
    answer_of(session, "Who are you?")


def second_stream(session: ChatSession) -> None:
    session.clear()
    usual = answer_of(session, "Who are you?")
    with torch.cuda.stream(torch.cuda.Stream()):
        session.clear()
        assert answer_of(session, "Who are you?") == usual
    torch.cuda.synchronize()


def few(session: ChatSession) -> None:
    """Five tokens."""
    tuple(session.ask(UserTurn("Who are you?"), SamplingSettings(temperature=0.0, max_tokens=5)))


STEPS: tuple[Callable[[ChatSession], None], ...] = (
    *(turns, picture, graph_against_plain, repack_save_load, second_stream),
)


def main() -> int:
    """The exit code."""
    missing = find_missing()
    if missing:
        sys.stdout.write("\n".join(["missing:", *missing]) + "\n")
        return 1
    if not torch.cuda.is_available():
        sys.stdout.write("everything is here but a card: no GPU\n")
        return 3
    if sys.argv[1:] == ["imports"]:
        return 0
    begun_s, failed = time.perf_counter(), 0
    session = ChatSession.open(Settings(model="pocket", device="cuda", kv_bits=6))
    sys.stdout.write(f"opened | {time.perf_counter() - begun_s:.1f} s\n")
    for step in (few,) if sys.argv[1:] == ["few"] else STEPS:
        begun_s = time.perf_counter()
        try:
            step(session)
            said = "passed"
        except Exception:  # the others are worth their seconds all the same
            said, failed = "FAILED", 1
            traceback.print_exc()
        sys.stdout.write(f"{step.__name__} | {said} | {time.perf_counter() - begun_s:.1f} s\n")
        sys.stdout.flush()
    return failed


if __name__ == "__main__":
    sys.exit(main())
