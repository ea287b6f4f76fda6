"""What reading a reference says meanwhile; what it gives is tested through `rqchat ask`."""

from __future__ import annotations

from pathlib import Path

import pytest

from rqchat.engine.events import FilesRead, InputEvent, InputNotice, InputProgress
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
    assert [document.text for document in reader.documents(scan)] == ["Call me Ishmael."]
    begun, over, notice = events
    assert (begun, over) == (InputProgress("reading", scan), InputProgress("reading", scan, True))
    assert isinstance(notice, InputNotice) and notice.text.startswith(f"{scan}: 1 of 2 pages")
    events.clear()
    with pytest.raises(InputError, match="damaged"):
        reader.documents(broken)
    assert events[-1] == InputProgress("reading", broken, is_over=True)
    events.clear()
    folder = str(tmp_path / "code")
    reader.documents(folder)
    assert events == [FilesRead(folder, (f"{folder}/a.txt",), (f"{folder}/b.bin",), "utf-8")]
