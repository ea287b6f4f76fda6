"""References: names of every kind, quotes, patterns, folders with links in circles, URLs."""

from __future__ import annotations

import os
import random
from contextlib import suppress
from pathlib import Path

from rqchat.engine.inputs.reference_paths import split_paths, split_references
from rqchat.engine.inputs.references import ReferenceReader

_NAMES = (
    b"a.txt",
    b"caf\xe9.txt",
    b"\x1b[2J.md",
    b"it's a cat.png",
    b"\xe2\x80\xae.txt",
    b"[x].txt",
)
_PARTS = (
    *(
        "*",
        "**",
        "?",
        "[a-",
        "[!a]*",
        "a.txt",
        "caf\udce9.txt",
        "x",
        "y",
        ".",
        ".hidden",
        "",
        "%E9",
    ),
    *("'", '"', "\\", "\0", "\ud800", "a" * 300, "\x1b[2J.md", "*" * 40 + "b", "**/" * 12),
)
_STARTS = ("", "", "file://", "file://[", "~nobody", "~\0", "http://[", "ftp://x", "FILE:")


def try_one(made: random.Random, folder: Path) -> None:
    """A folder of odd names, and an odd reference into it."""
    for raw in made.sample(_NAMES, made.randint(0, 4)):
        place = folder / made.choice(("", "x", "x/z")) / os.fsdecode(raw)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(made.choice((b"", b"notes", b"\0\1", b"caf\xe9", b"%PDF-", b"<html>")))
    for link in made.sample(("x/l", "y", "z"), made.randrange(3)):
        with suppress(OSError):
            (folder / link).symlink_to(made.choice((".", folder, "nowhere", "x")))
    if made.random() < 0.1:
        os.mkfifo(folder / "x.pipe")
    parts = "/".join(made.choice(_PARTS) for _ in range(made.randint(0, 4)))
    reference = f"{made.choice(_STARTS)}{folder}/{parts}"
    reader = ReferenceReader(lambda event: None, offline=True)
    match made.randrange(4):
        case 0:
            reader.picture(reference)
        case 1:
            for word in split_references(reference + made.choice(("", " b", "'", "\\"))):
                reader.read(word)
        case 2:
            split_paths(reference)
        case _:
            reader.read(reference)
