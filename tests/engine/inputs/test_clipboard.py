"""The clipboard, through stand-ins for the desktop's programs on PATH."""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path

import pytest
from PIL import Image

from rqchat.engine.inputs.clipboard import read_clipboard
from rqchat.engine.inputs.documents import Document
from rqchat.engine.inputs.pictures import Picture
from rqchat.errors import InputError

# Called as the real ones are, and refusing everything else
SELECTING = """
kinds = {kinds!r}
if sys.argv[1:] == {listing!r}:
    print("\\n".join(kinds)); sys.exit(0 if kinds else 1)
assert sys.argv[1:-1] == {fetching!r} and sys.argv[-1] in kinds, sys.argv
sys.stdout.buffer.write(kinds[sys.argv[-1]])
"""
WL_PASTE = {"listing": ["--list-types"], "fetching": ["--no-newline", "--type"]}
XCLIP = {
    "listing": ["-selection", "clipboard", "-o", "-t", "TARGETS"],
    "fetching": ["-selection", "clipboard", "-o", "-t"],
}


class Desktop:
    """A folder that is all of PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, name: str, body: str) -> None:
        path = self.folder / name
        path.write_text(f"#!{sys.executable} -S\nimport sys\n{body}")
        path.chmod(0o755)

    def wayland(self, **kinds: bytes) -> None:
        named = {name.replace("_", "/"): data for name, data in kinds.items()}
        self.add("wl-paste", SELECTING.format(kinds=named, **WL_PASTE))

    def x11(self, **kinds: bytes) -> None:
        named = {name.replace("_", "/"): data for name, data in kinds.items()}
        self.add("xclip", SELECTING.format(kinds=named, **XCLIP))


@pytest.fixture
def desktop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desktop:
    monkeypatch.setenv("PATH", str(tmp_path))
    return Desktop(tmp_path)


def _png(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(out, "PNG")
    return out.getvalue()


def _size(item: Picture | Document) -> tuple[int, int]:
    assert isinstance(item, Picture)
    return item.width, item.height


def test_wayland(desktop: Desktop) -> None:
    desktop.wayland(text_plain=b"or this", image_png=_png(7, 5))
    assert _size(read_clipboard()) == (7, 5)
    desktop.wayland(text_html=b"<b>", text_plain=b"words")
    assert read_clipboard() == Document("clipboard", "words")


def test_x11_where_wayland_has_nothing(desktop: Desktop) -> None:
    desktop.add("wl-paste", "sys.stderr.write('no Wayland here\\n'); sys.exit(1)")
    desktop.x11(TARGETS=b"", image_png=_png(3, 4))
    assert _size(read_clipboard()) == (3, 4)


def test_macos(desktop: Desktop) -> None:
    desktop.add("osascript", f"print('«data PNGf{_png(6, 2).hex().upper()}»')")
    assert _size(read_clipboard()) == (6, 2)
    desktop.add("osascript", "sys.exit(1)")
    desktop.add("pbpaste", "print('words')")
    assert read_clipboard() == Document("clipboard", "words\n")
    desktop.add("pngpaste", f"sys.stdout.buffer.write({_png(9, 9)!r})")
    assert _size(read_clipboard()) == (9, 9)


def test_windows_from_wsl(desktop: Desktop) -> None:
    picture = base64.b64encode(_png(8, 1)).decode()
    body = "wanted = sys.argv[-1]\nprint({!r} if 'GetImage' in wanted else 'words')"
    desktop.add("powershell.exe", body.format(picture))
    assert _size(read_clipboard()) == (8, 1)
    desktop.add("powershell.exe", body.format(""))
    assert read_clipboard() == Document("clipboard", "words\n")
    desktop.add("powershell.exe", "print('Scripts are disabled!')")
    with pytest.raises(InputError, match=r"powershell.exe: it answers 'Scripts are disabled!'"):
        read_clipboard()


def test_nothing_in_it_is_said_with_each_programs_reason(desktop: Desktop) -> None:
    desktop.add("wl-paste", "sys.stderr.write('Nothing is copied\\n'); sys.exit(1)")
    desktop.x11(audio_wav=b"x")
    with pytest.raises(InputError, match="wl-paste: Nothing is copied; xclip: it holds audio/wav"):
        read_clipboard()


def test_no_program_names_what_to_install(desktop: Desktop) -> None:
    with pytest.raises(InputError, match="install wl-clipboard"):
        read_clipboard()
