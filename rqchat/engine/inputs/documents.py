"""Text files and piped text: read whole or refused with the reason, never cut. No torch."""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field
from pathlib import Path

from rqchat.errors import InputError, UsageError, printable

__all__ = [
    "MAX_DOCUMENT_BYTES",
    "MAX_TEXT_BYTES",
    "Document",
    "decode_document",
    "is_text_encoding",
    "read_bytes",
    "read_document",
]

MAX_DOCUMENT_BYTES = 500_000_000  # of a file: PDF files hold much besides their text
MAX_TEXT_BYTES = 64_000_000  # some fifty times what the longest context holds

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark is its beginning
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# \b and ESC occur in terminal logs and man pages
_NO_TEXT_CONTROLS = "".join(sorted(set(map(chr, range(32))) - set("\t\n\r\f\v\b\x1b")))
# Punycode is read in quadratic time; the others make lone surrogates, or read programs, not texts
_NO_DOCUMENT_ENCODINGS = frozenset(
    "punycode idna undefined utf-7 unicode-escape raw-unicode-escape".split()
)
_MAX_CONTROL_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Document:
    """A text with the name it goes by.

    Attributes:
        name: the file, or what the user calls it; printable, whatever the file's name is.
        text: all of it.
        pages: how many pages of a PDF file were read for it; 0 for other texts.
    """

    name: str
    text: str
    pages: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", printable(self.name))


def read_document(path: str | Path, *, encoding: str | None = None) -> Document:
    """Reads a text file: UTF-8, with a byte order mark UTF-16 or UTF-32, or in `encoding`.

    Raises:
        InputError: missing, a folder, unreadable, empty, binary, or not in that encoding.
    """
    data = read_bytes(path, MAX_DOCUMENT_BYTES, "a text file, such as NAME.txt")
    return decode_document(data, str(path), encoding=encoding)


def read_bytes(path: str | Path, max_bytes: int, wanted: str) -> bytes:
    """All of a file; `wanted` tells who gives a folder what to give instead.

    Raises:
        InputError: missing, a folder, unreadable, or of more than `max_bytes`.
    """
    try:
        file = Path(path).expanduser()
        if file.is_dir():
            raise InputError(f"{path} is a folder; give {wanted}")
        with file.open("rb") as opened:
            # One byte more than is allowed, because pipes and devices tell no size.
            data = opened.read(max_bytes + 1)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; check the spelling and the folder") from None
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read: {reason}") from None
    if len(data) > max_bytes:
        raise InputError(
            f"{path} has more than {max_bytes / 1e6:.0f} MB, which is the limit; make it smaller"
            " first"
        )
    return data


def decode_document(data: bytes, name: str, *, encoding: str | None = None) -> Document:
    """The document in `data`; `name` is what errors and the model call it.

    Raises:
        InputError: empty, too long, binary, or not valid in its encoding, with the offset of the
            bad byte.
        UsageError: there is no such `encoding`.
    """
    if not data or data.isspace():
        raise InputError(f"{name} is empty; there is nothing to read in it")
    if encoding is None:
        encoding = _own_encoding(data, name)
    elif not is_text_encoding(encoding):
        raise UsageError(f"there is no encoding {encoding!r}; such as utf-8, latin1, cp1252")
    if len(data) > MAX_TEXT_BYTES:
        raise InputError(
            f"{name} has {len(data) / 1e6:.0f} MB of text or more; the limit is"
            f" {MAX_TEXT_BYTES / 1e6:.0f} MB, which no context holds, so give a part of it"
        )
    try:
        text = data.decode(encoding)
    except UnicodeError as error:
        place = f" at byte {error.start}" if isinstance(error, UnicodeDecodeError) else ""
        raise InputError(
            f"{name} is not valid {encoding.upper()}{place}; name its own with --encoding, such as"
            " latin1"
        ) from None
    controls = sum(map(text.count, _NO_TEXT_CONTROLS))
    if controls > _MAX_CONTROL_SHARE * len(text):
        raise InputError(
            f"{name} is a binary file ({controls} control characters in {len(text)}), not text"
        )
    text = text.removeprefix("\ufeff")
    if not text or text.isspace():
        raise InputError(f"{name} is empty; there is nothing to read in it")
    return Document(name, text)


def is_text_encoding(name: str) -> bool:
    """Whether documents may be in the encoding `name`, such as `utf-8`; people, pages and servers
    name them."""
    try:
        "".encode(name)  # fails for what Python calls a codec but is no encoding of text
        return codecs.lookup(name).name not in _NO_DOCUMENT_ENCODINGS
    except (LookupError, ValueError):
        return False


def _own_encoding(data: bytes, name: str) -> str:
    """What the byte order mark says, else UTF-8."""
    own = next((known for mark, known in _BYTE_ORDER_MARKS if data.startswith(mark)), "utf-8")
    if own.startswith("utf-8") and b"\0" in data:
        raise InputError(
            f"{name} is a binary file (a NUL byte at offset {data.index(0)}), not text and"
            " no picture; turn other formats into text first"
        )
    return own
