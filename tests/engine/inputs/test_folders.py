"""Folders: which files are read, and that none is dropped for being too many."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from rqchat.engine.inputs import folders
from rqchat.engine.inputs.documents import Document, decode_document
from rqchat.engine.inputs.folders import read_folder
from rqchat.errors import InputError


@pytest.fixture
def code(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    for name, text in {
        "main.py": "import a",
        "src/a.py": "x = 1",
        "src/b.txt": "beta",
        "build/out.txt": "made",
        ".hidden/notes.txt": "mine",
        "empty.txt": "",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "logo.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    (folder / "link.py").symlink_to(folder / "main.py")
    return folder


def _decode(data: bytes, name: str) -> tuple[Document, ...]:
    return (decode_document(data, name),)


def _names(found: folders.FolderFiles, folder: Path) -> list[str]:
    return [str(Path(item.name).relative_to(folder)) for item in found.items]


def test_text_files_in_order_of_their_names(code: Path) -> None:
    found = read_folder(code, _decode)
    assert _names(found, code) == ["build/out.txt", "main.py", "src/a.py", "src/b.txt"]
    texts = [item.text for item in found.items if isinstance(item, Document)]
    assert texts[1:3] == ["import a", "x = 1"]
    assert found.left_out == (str(code / "empty.txt"), str(code / "logo.png"))


def test_gitignore_is_obeyed(code: Path) -> None:
    (code / ".gitignore").write_text("build/\n")
    environment = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    subprocess.run(["git", "init", "-q"], cwd=code, check=True, env=environment)
    assert _names(read_folder(code, _decode), code) == [
        *(".gitignore", ".hidden/notes.txt", "main.py", "src/a.py", "src/b.txt"),
    ]
    assert _names(read_folder(code / "src", _decode), code) == ["src/a.py", "src/b.txt"]


def test_no_text_at_all(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no texts and no pictures"):
        read_folder(tmp_path, _decode)


def test_too_many_files_or_bytes_are_refused_not_cut(
    code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "MAX_FOLDER_FILES", 3)
    with pytest.raises(InputError, match=r"more than 3 files, .* name a part of it"):
        read_folder(code, _decode)
    monkeypatch.setattr(folders, "MAX_FOLDER_FILES", 4)
    assert len(read_folder(code, _decode).items) == 4
    monkeypatch.setattr(folders, "MAX_FOLDER_BYTES", 10)
    with pytest.raises(InputError, match="more than"):
        read_folder(code, _decode)


def test_large_binary_files_do_not_count(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "MAX_FOLDER_BYTES", 100)
    (code / "big.bin").write_bytes(bytes(1000))
    assert len(read_folder(code, _decode).items) == 4
