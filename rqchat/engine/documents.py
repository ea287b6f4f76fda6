"""Text files and piped text: read whole or refused with the reason, never cut. No torch."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from pathlib import Path

from rqchat.errors import InputError

__all__ = ["Document", "decode_document", "read_document"]

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark is its beginning
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_TEXT_CONTROLS = frozenset("\t\n\r\f\v\b\x1b")  # \b and ESC occur in terminal logs and man pages
_MAX_CONTROL_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Document:
    """A text with the name it goes by."""

    name: str
    text: str


def read_document(path: str | Path) -> Document:
    """Reads a UTF-8 (or, with a byte order mark, UTF-16 or UTF-32) text file.

    Raises:
        InputError: missing, a folder, unreadable, empty, binary, or not in that encoding.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        raise InputError(f"{path} is a folder; give a text file, such as {file / 'NAME.txt'}")
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; check the spelling and the folder") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read: {reason}") from None
    return decode_document(data, str(path))


def decode_document(data: bytes, name: str) -> Document:
    """The document in `data`; `name` is what errors and the model call it.

    Raises:
        InputError: empty, binary, or not valid in its encoding, with the offset of the bad byte.
    """
    if not data.strip():
        raise InputError(f"{name} is empty; there is nothing to read in it")
    encoding = next((known for mark, known in _BYTE_ORDER_MARKS if data.startswith(mark)), "utf-8")
    if encoding.startswith("utf-8") and b"\0" in data:
        raise InputError(
            f"{name} is a binary file (a NUL byte at offset {data.index(0)}), not text; pass"
            " pictures with --image, and turn other formats into text first"
        )
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name} is not valid {encoding.upper()} at byte {error.start}; convert it first,"
            f" for example: iconv -f latin1 -t utf-8 {name}"
        ) from None
    controls = sum(1 for char in text if char < " " and char not in _TEXT_CONTROLS)
    if controls > _MAX_CONTROL_SHARE * len(text):
        raise InputError(
            f"{name} is a binary file ({controls} control characters in {len(text)}), not text"
        )
    if not text.strip():
        raise InputError(f"{name} is empty; there is nothing to read in it")
    return Document(name, text)
