"""What the clipboard holds, through the programs that desktops have for it. No torch."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from collections.abc import Callable

from rqchat.engine.inputs.documents import Document, decode_document
from rqchat.engine.inputs.pictures import Picture, decode_picture
from rqchat.errors import InputError, printable

__all__ = ["read_clipboard"]

_NAME = "clipboard"
_LIMIT_S = 10.0
_REASON_CHARACTERS = 80
_PICTURE_KINDS = ("image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp", "image/tiff")
_TEXT_KINDS = ("text/plain;charset=utf-8", "UTF8_STRING", "text/plain", "STRING", "TEXT")
# osascript prints «data PNGf...», the bytes in hexadecimal.
_OSASCRIPT_HEX = re.compile(rb"PNGf([0-9A-F]+)")
_POWERSHELL_PICTURE = (
    "Add-Type -AssemblyName System.Windows.Forms,System.Drawing;"
    "$p=[Windows.Forms.Clipboard]::GetImage();"
    "if($p){$m=New-Object IO.MemoryStream;$p.Save($m,[Drawing.Imaging.ImageFormat]::Png);"
    "[Convert]::ToBase64String($m.ToArray())}"
)
_POWERSHELL_TEXT = "[Console]::OutputEncoding=[Text.Encoding]::UTF8;Get-Clipboard -Raw"


def read_clipboard() -> Picture | Document:
    """The picture in the clipboard, or where it holds none, its text.

    Wayland's `wl-paste` is asked first, then X11's `xclip`, macOS's `pngpaste` and `osascript`, and
    Windows' PowerShell, which WSL can call; the first one that has something is taken.

    Raises:
        InputError: there is none of these programs, or none has a picture or text.
    """
    there = [program for program in _READERS if shutil.which(program)]
    if not there:
        raise InputError(
            "no program is there to read the clipboard with; install wl-clipboard (Wayland) or"
            " xclip (X11)"
        )
    reasons = []
    for program in there:
        try:
            return _READERS[program]()
        except _NothingError as error:
            reasons.append(f"{program}: {error}")
    raise InputError(f"the clipboard holds no picture and no text ({'; '.join(reasons)})")


class _NothingError(Exception):
    """A program gave nothing; the message is its reason."""


def _wl_paste() -> Picture | Document:
    kinds = _run("wl-paste", "--list-types")
    return _typed(kinds, lambda kind: _run("wl-paste", "--no-newline", "--type", kind))


def _xclip() -> Picture | Document:
    program = ("xclip", "-selection", "clipboard", "-o", "-t")
    return _typed(_run(*program, "TARGETS"), lambda kind: _run(*program, kind))


def _typed(offered: bytes, fetch: Callable[[str], bytes]) -> Picture | Document:
    """What `fetch` gives for the best of the `offered` kinds, one a line."""
    kinds = offered.decode("utf-8", "replace").splitlines()
    for kind in _PICTURE_KINDS:
        if kind in kinds:
            return decode_picture(fetch(kind), _NAME)
    for kind in _TEXT_KINDS:
        if kind in kinds:
            return _text(fetch(kind))
    raise _NothingError(f"it holds {', '.join(kinds[:5]) or 'nothing'}")


def _pngpaste() -> Picture | Document:
    try:
        return decode_picture(_run("pngpaste", "-"), _NAME)
    except _NothingError:
        return _text(_run("pbpaste"))


def _osascript() -> Picture | Document:
    try:
        found = _OSASCRIPT_HEX.search(_run("osascript", "-e", "the clipboard as «class PNGf»"))
    except _NothingError:
        found = None
    if found:
        return decode_picture(bytes.fromhex(found[1].decode()), _NAME)
    return _text(_run("pbpaste"))


def _powershell() -> Picture | Document:
    # Windows lets only threads of a single-threaded apartment at its clipboard.
    shell = ("powershell.exe", "-NoProfile", "-STA", "-Command")
    answer = _run(*shell, _POWERSHELL_PICTURE)
    try:
        picture = base64.b64decode(b"".join(answer.split()), validate=True)
    except ValueError:  # a profile or a policy says something of its own
        said = answer.decode("utf-8", "replace").strip().partition("\n")[0]
        raise _NothingError(f"it answers {printable(said)[:_REASON_CHARACTERS]!r}") from None
    return decode_picture(picture, _NAME) if picture else _text(_run(*shell, _POWERSHELL_TEXT))


def _text(data: bytes) -> Document:
    if not data.strip():
        raise _NothingError("it holds nothing")
    return decode_document(data, _NAME)


def _run(*command: str) -> bytes:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_LIMIT_S, check=True
        )
    except subprocess.TimeoutExpired:
        raise _NothingError(f"no answer within {_LIMIT_S:.0f} s") from None
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode("utf-8", "replace").strip().partition("\n")[0]
        raise _NothingError(reason or f"exit code {error.returncode}") from None
    except OSError as error:
        raise _NothingError(error.strerror or str(error)) from None
    return done.stdout


_READERS: dict[str, Callable[[], Picture | Document]] = {
    "wl-paste": _wl_paste,
    "xclip": _xclip,
    "pngpaste": _pngpaste,
    "osascript": _osascript,
    "powershell.exe": _powershell,
}
