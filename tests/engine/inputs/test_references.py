"""What reading a reference says meanwhile; what it gives is tested through `rqchat ask`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rqchat.engine.events import FilesRead, InputEvent, InputNotice, InputProgress
from rqchat.engine.inputs import references
from rqchat.engine.inputs.documents import Document
from rqchat.engine.inputs.references import ReferenceReader
from rqchat.errors import InputError
from tests.helpers import pdf_bytes


def test_reading_speaks_in_events(tmp_path: Path) -> None:
    (tmp_path / "scan.pdf").write_bytes(pdf_bytes("Call me Ishmael.", ""))
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.4 and no more")
    (tmp_path / "code").mkdir()
    (tmp_path / "code/a.txt").write_text("a")
    (tmp_path / "code/b.bin").write_bytes(b"\0")
    events: list[InputEvent] = []
    reader = ReferenceReader(events.append)
    scan, broken = str(tmp_path / "scan.pdf"), str(tmp_path / "broken.pdf")
    item, page = reader.read(scan)
    assert isinstance(item, Document) and "Call me Ishmael." in item.text
    assert page.name == "page 2 of scan.pdf"
    begun, over, notice = events
    assert (begun, over) == (InputProgress("reading", scan), InputProgress("reading", scan, True))
    assert isinstance(notice, InputNotice) and notice.text.startswith(f"{scan}: 1 of 2 pages")
    events.clear()
    with pytest.raises(InputError, match="damaged"):
        reader.read(broken)
    assert events[-1] == InputProgress("reading", broken, is_over=True)
    events.clear()
    folder = str(tmp_path / "code")
    reader.read(folder)
    assert events == [FilesRead(folder, (f"{folder}/a.txt",), (f"{folder}/b.bin",), "utf-8")]


def test_a_named_pipe_is_read_and_waited_for_with_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(references, "_WAIT_NOTE_S", 0.01)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    events: list[InputEvent] = []

    def write_when_it_is_said(event: InputEvent) -> None:
        events.append(event)
        if len(events) == 1:
            pipe.write_text("notes")

    (document,) = ReferenceReader(write_when_it_is_said).read(str(pipe))
    waiting = InputProgress("waiting for", str(pipe))
    assert isinstance(document, Document)
    assert (document.text, events[0]) == ("notes", waiting)


def test_an_encoding_that_a_page_makes_up_is_not_taken_for_the_users(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    for name in (b"no-such", b"punycode", b"hex"):
        page.write_bytes(b"<html><meta charset=" + name + b"><p>caf\xc3\xa9")
        (document,) = ReferenceReader(lambda event: None).read(str(page))
        assert isinstance(document, Document) and document.text == "caf\u00e9\n"
