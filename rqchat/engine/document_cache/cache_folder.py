"""A folder of caches that were read once: named by what they hold, bounded, oldest use first out.

One entry is a safetensors file of the KV cache and, beside it, a JSON file that says what it is
of. A file's name is `<group>-<tokens>-<digest>`: the group stands for model and plan, the digest
for the keys (`Prompt.keys`) of its tokens. No torch: the cache itself reads and writes its file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["CacheEntry", "CacheFolder", "EntryLabel"]

_DATA, _LABEL = ".safetensors", ".json"
_ABANDONED_S = 3600.0  # a file that was begun longer ago is nobody's any more
_DIGEST_BYTES = 16
_MOST_FREE_SHARE = 0.5  # of the free space of the disk


@dataclass(frozen=True, slots=True)
class EntryLabel:
    """What a person gets to know of an entry.

    Attributes:
        names: of the documents and pictures in it; none for a conversation alone.
        model: name of the model.
        weights: their precision.
        kv_bits: of the cache.
    """

    names: tuple[str, ...]
    model: str
    weights: str
    kv_bits: int


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One entry.

    Attributes:
        path: of the cache's file.
        tokens: in it.
        size_bytes: of the file.
        used_s: when it was last written or read, in seconds since 1970.
        label: what it is of; None where that file is gone.
    """

    path: Path
    tokens: int
    size_bytes: int
    used_s: float
    label: EntryLabel | None

    @property
    def name(self) -> str:
        """What it is called on the command line."""
        return self.path.stem.rpartition("-")[2][:12]


class CacheFolder:
    """The entries of one folder. Several processes may use it at once.

    Args:
        folder: created on the first write, readable by its owner alone.
        most_bytes: entries that take more together are dropped, least recently used first.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder, self._most_bytes = folder, most_bytes

    def find(self, group: str, keys: Sequence[int], more_than: int) -> CacheEntry | None:
        """The longest entry of `group` that is a beginning of `keys`, more than `more_than` tokens.

        At least the last token of `keys` is left out, because its logits are wanted.
        """
        found = {e.path.name: e for e in self._entries(f"{group}-") if e.tokens > more_than}
        lengths = {entry.tokens for entry in found.values() if entry.tokens < len(keys)}
        best: CacheEntry | None = None
        # In rising order, so that the longest one stays.
        for tokens, digest in _digests(keys, sorted(lengths)):
            best = found.get(f"{group}-{tokens}-{digest}{_DATA}", best)
        return best

    def begin(self, group: str, keys: Sequence[int]) -> Path:
        """Where an entry with exactly `keys` belongs; its folder is there then.

        Raises:
            OSError: the folder cannot be created.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        ((tokens, digest),) = _digests(keys, [len(keys)])
        return self._folder / f"{group}-{tokens}-{digest}{_DATA}"

    def finish(self, path: Path, label: EntryLabel) -> None:
        """The file at `path` is whole: label it, and drop what is too much.

        Raises:
            OSError: the label cannot be written.
        """
        beside = path.with_suffix(f"{_LABEL}.{os.getpid()}")
        # Before anything is in it: nobody else is to read it in between.
        beside.touch(mode=0o600)
        beside.write_text(json.dumps(asdict(label)), encoding="utf-8")
        beside.replace(path.with_suffix(_LABEL))
        self._drop_surplus()

    def touch(self, entry: CacheEntry) -> None:
        """It was used now."""
        # A file system that is read only keeps the old order, and a dropped file needs none
        try:
            os.utime(entry.path)
        except OSError:
            return

    def entries(self) -> tuple[CacheEntry, ...]:
        """All entries, the latest used first."""
        return tuple(sorted(self._entries(""), key=lambda entry: -entry.used_s))

    def remove(self, entries: Iterable[CacheEntry]) -> None:
        """Drop entries; those that are gone already are no error.

        Raises:
            OSError: one cannot be removed.
        """
        for entry in entries:
            entry.path.unlink(missing_ok=True)
            entry.path.with_suffix(_LABEL).unlink(missing_ok=True)

    def _entries(self, start: str) -> Iterator[CacheEntry]:
        for path in self._folder.glob(f"{start}*{_DATA}"):
            parts = path.stem.split("-")
            # A dot stands before files that are being written (`rotorquant/snapshot.py`).
            if len(parts) != 3 or not parts[1].isdecimal() or path.name.startswith("."):
                continue
            try:
                status = path.stat()
            except OSError:
                continue  # another process has dropped it
            yield CacheEntry(
                path, int(parts[1]), status.st_size, status.st_mtime, _read_label(path)
            )

    def _drop_surplus(self) -> None:
        entries = self.entries()
        total = sum(entry.size_bytes for entry in entries)
        most = min(self._most_bytes, total + self._free_bytes() * _MOST_FREE_SHARE)
        for entry in reversed(entries):
            if total <= most:
                break
            self.remove([entry])
            total -= entry.size_bytes
        self._drop_abandoned()

    def _drop_abandoned(self) -> None:
        """What a process that was killed has left: begun files, and labels of nothing."""
        for path in self._folder.iterdir():
            begun = path.name.startswith(".") or _LABEL in path.name
            if begun and not path.with_suffix(_DATA).exists() and _age_s(path) > _ABANDONED_S:
                path.unlink(missing_ok=True)

    def _free_bytes(self) -> int:
        return shutil.disk_usage(self._folder).free


def _digests(keys: Sequence[int], lengths: Iterable[int]) -> Iterator[tuple[int, str]]:
    """Digests of the first n keys, for each n of `lengths` in rising order."""
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    start = 0
    for length in lengths:
        digest.update(array("q", keys[start:length]).tobytes())
        start = length
        yield length, digest.hexdigest()


def _read_label(path: Path) -> EntryLabel | None:
    try:
        fields: dict[str, Any] = json.loads(path.with_suffix(_LABEL).read_text(encoding="utf-8"))
        fields["names"] = tuple(map(str, fields["names"]))
        return EntryLabel(**fields)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0
