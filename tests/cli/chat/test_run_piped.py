"""A document piped into the whole program, on a narrow terminal and on a dumb one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.screened import Chat

FACT = "The access code for the north gate is 4711."


@pytest.mark.parametrize(("columns", "term"), [(40, "xterm-256color"), (80, "dumb")])
def test_a_piped_document(tmp_path: Path, columns: int, term: str) -> None:
    document = tmp_path / "document.txt"
    document.write_text(f"It rains in the town.\n{FACT}\n" * 20)
    chat = Chat(tmp_path, "--model=pocket", stdin=document, columns=columns, TERM=term)
    try:
        chat.wait_for("read standard input: 1,320 characters")
        assert "[File 1" not in chat.text  # nothing waits for the model
        chat.press("What is the access code for the north gate?\r")
        chat.wait_for("[File 1: standard input, ")
        chat.wait_for("4711.")
        chat.press("/exit\r")
        assert chat.leave() == 0
        assert term != "dumb" or "\x1b" not in chat.raw
    finally:
        chat.close()
