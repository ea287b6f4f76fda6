"""Documents are read once: what comes from disk is what reading gave, and bad files harm nobody."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from rqchat.engine.document_cache.cache_folder import CacheFolder
from rqchat.engine.events import Done, Notice, PrefillProgress, TextDelta
from rqchat.engine.inputs.documents import Document
from rqchat.engine.loading.open_model import OpenedModel
from rqchat.engine.session import ChatSession, Message, UserTurn
from rqchat.engine.settings import SamplingSettings, Settings

pytestmark = pytest.mark.slow
_GREEDY = SamplingSettings(temperature=0, max_tokens=8)
_ASKED = "What is said?"
# Some 2,300 tokens: more than the least that is stored
_BOOK = Document("book.txt", " ".join(f"Sentence {n} says little." for n in range(200)))


@dataclass(frozen=True)
class _Read:
    """What a first process read, answered and left on disk."""

    folder: Path
    text: str
    messages: tuple[Message, ...]


@pytest.fixture(scope="module")
def opened() -> ChatSession:
    return ChatSession.open(Settings(model="pocket", device="cpu", kv_bits=4))


@pytest.fixture(scope="module")
def read(opened: ChatSession, tmp_path_factory: pytest.TempPathFactory) -> _Read:
    folder = tmp_path_factory.mktemp("read") / "kv"
    session = _again(opened, CacheFolder(folder, 2**30))
    text, *_ = _ask(session, _ASKED, _BOOK)
    session.close()
    return _Read(folder, text, session.messages)


@pytest.fixture
def store(tmp_path: Path) -> CacheFolder:
    """A folder with nothing in it."""
    return CacheFolder(tmp_path / "empty", 2**30)


@pytest.fixture
def kept(read: _Read, tmp_path: Path) -> CacheFolder:
    """A folder of the test's own that holds what the first process read."""
    return CacheFolder(Path(shutil.copytree(read.folder, tmp_path / "kv")), 2**30)


def _again(opened: ChatSession, store: CacheFolder | None) -> ChatSession:
    """Another process with the same model: nothing is in its cache."""
    return ChatSession(OpenedModel(opened._loaded, opened.plan, "pocket"), store)


def _ask(session: ChatSession, question: str, *documents: Document) -> tuple[str, Done, list[str]]:
    """The answer, the record of it, and the notices."""
    events = list(session.ask(UserTurn(question, documents=documents), _GREEDY))
    done = events[-1]
    assert isinstance(done, Done)
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    return text, done, [event.text for event in events if isinstance(event, Notice)]


def test_a_document_is_read_once(opened: ChatSession, kept: CacheFolder) -> None:
    (entry,) = kept.entries()
    assert entry.label is not None and entry.label.names == ("book.txt",)

    asked = "What is the code?"
    text, done, _ = _ask(_again(opened, kept), asked, _BOOK)
    fresh_text, fresh, _ = _ask(_again(opened, None), asked, _BOOK)

    assert done.tokens.cached == entry.tokens > 0.95 * done.tokens.input
    assert fresh.tokens.cached == 0
    assert text == fresh_text


def test_progress_begins_with_what_was_read_before(opened: ChatSession, kept: CacheFolder) -> None:
    begun = next(iter(_again(opened, kept).ask(UserTurn("Who?", documents=(_BOOK,)), _GREEDY)))
    assert isinstance(begun, PrefillProgress)
    assert begun.done_tokens == begun.cached_tokens > 2048


def test_a_chat_goes_on_after_a_restart(
    opened: ChatSession, read: _Read, kept: CacheFolder
) -> None:
    second = _again(opened, kept)
    second.restore(read.messages)

    text, done, _ = _ask(second, "And then?")
    same = _again(opened, None)
    same.restore(read.messages)
    assert text == _ask(same, "And then?")[0]
    assert done.tokens.cached > 0.9 * done.tokens.input


def test_short_prompts_leave_nothing(opened: ChatSession, store: CacheFolder) -> None:
    session = _again(opened, store)
    _ask(session, "Hello", Document("note.txt", "Short."))
    session.close()

    assert store.entries() == ()


def test_a_damaged_file_is_dropped_and_the_document_read(
    opened: ChatSession, read: _Read, kept: CacheFolder
) -> None:
    (entry,) = kept.entries()
    whole = entry.path.read_bytes()
    entry.path.write_bytes(whole[:-1000] + bytes(1000))

    text, done, notices = _ask(_again(opened, kept), _ASKED, _BOOK)

    assert text == read.text
    assert done.tokens.cached == 0
    assert "corrupt" in notices[0]


def test_a_disk_that_takes_nothing_is_said_once(opened: ChatSession, tmp_path: Path) -> None:
    place = tmp_path / "a file"
    place.touch()
    session = _again(opened, CacheFolder(place, 2**30))

    text, _, notices = _ask(session, "What?", _BOOK)
    assert text
    assert len(notices) == 1 and "not kept" in notices[0]
    assert _ask(session, "And?")[2] == []


def test_other_kv_bits_are_another_cache(kept: CacheFolder) -> None:
    other = ChatSession.open(Settings(model="pocket", device="cpu", kv_bits=8), folder=kept)

    begun = next(iter(other.ask(UserTurn(_ASKED, documents=(_BOOK,)), _GREEDY)))
    assert isinstance(begun, PrefillProgress)
    assert begun.cached_tokens == 0


def test_the_file_is_written_whole_or_not_at_all(
    opened: ChatSession, store: CacheFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*paths: object) -> None:
        raise OSError(28, "No space left on device")

    session = _again(opened, store)
    monkeypatch.setattr(os, "replace", fail)
    _ask(session, "What?", _BOOK)
    session.close()

    assert store.entries() == ()
    assert not list(store.begin("g", [1]).parent.iterdir())
