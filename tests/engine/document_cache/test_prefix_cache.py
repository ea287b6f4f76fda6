"""Documents are read once: what comes from disk is what reading gave, and bad files harm nobody."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rqchat.engine.document_cache.cache_folder import CacheFolder
from rqchat.engine.events import Done, Notice, PrefillProgress, TextDelta
from rqchat.engine.inputs.documents import Document
from rqchat.engine.loading.open_model import OpenedModel
from rqchat.engine.session import ChatSession, UserTurn
from rqchat.engine.settings import SamplingSettings, Settings

pytestmark = pytest.mark.slow
_GREEDY = SamplingSettings(temperature=0, max_tokens=8)
_BOOK = Document("book.txt", " ".join(f"Sentence {n} says little." for n in range(500)))


@pytest.fixture(scope="module")
def opened() -> ChatSession:
    return ChatSession.open(Settings(model="pocket", device="cpu", kv_bits=4))


@pytest.fixture
def store(tmp_path: Path) -> CacheFolder:
    return CacheFolder(tmp_path / "kv", 2**30)


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


def test_a_document_is_read_once(opened: ChatSession, store: CacheFolder) -> None:
    first = _again(opened, store)
    _ask(first, "What is said?", _BOOK)
    first.close()
    (entry,) = store.entries()
    assert entry.label is not None and entry.label.names == ("book.txt",)

    asked = "What is the code?"
    text, done, _ = _ask(_again(opened, store), asked, _BOOK)
    fresh_text, fresh, _ = _ask(_again(opened, None), asked, _BOOK)

    assert done.tokens.cached == entry.tokens > 0.95 * done.tokens.input
    assert fresh.tokens.cached == 0
    assert text == fresh_text


def test_progress_begins_with_what_was_read_before(opened: ChatSession, store: CacheFolder) -> None:
    session = _again(opened, store)
    _ask(session, "What?", _BOOK)
    session.close()

    begun = next(iter(_again(opened, store).ask(UserTurn("Who?", documents=(_BOOK,)), _GREEDY)))
    assert isinstance(begun, PrefillProgress)
    assert begun.done_tokens == begun.cached_tokens > 2048


def test_a_chat_goes_on_after_a_restart(opened: ChatSession, store: CacheFolder) -> None:
    first = _again(opened, store)
    _ask(first, "What is said?", _BOOK)
    first.close()
    second = _again(opened, store)
    second.restore(first.messages)

    text, done, _ = _ask(second, "And then?")
    same = _again(opened, None)
    same.restore(first.messages)
    assert text == _ask(same, "And then?")[0]
    assert done.tokens.cached > 0.9 * done.tokens.input


def test_short_prompts_leave_nothing(opened: ChatSession, store: CacheFolder) -> None:
    session = _again(opened, store)
    _ask(session, "Hello", Document("note.txt", "Short."))
    session.close()

    assert store.entries() == ()


def test_a_damaged_file_is_dropped_and_the_document_read(
    opened: ChatSession, store: CacheFolder
) -> None:
    session = _again(opened, store)
    text, *_ = _ask(session, "What?", _BOOK)
    session.close()
    (entry,) = store.entries()
    whole = entry.path.read_bytes()
    entry.path.write_bytes(whole[:-1000] + bytes(1000))

    again, done, notices = _ask(_again(opened, store), "What?", _BOOK)

    assert again == text
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


def test_other_kv_bits_are_another_cache(opened: ChatSession, store: CacheFolder) -> None:
    session = _again(opened, store)
    _ask(session, "What?", _BOOK)
    session.close()
    other = ChatSession.open(Settings(model="pocket", device="cpu", kv_bits=8), folder=store)

    assert _ask(other, "What?", _BOOK)[1].tokens.cached == 0


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
