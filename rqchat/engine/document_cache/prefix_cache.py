"""Reads the cache of a long prefix from disk instead of computing it, and writes it there.

What is kept ends with a document, a picture, or what a conversation has in common with its next
turn; its tokens are compared one by one (`Prompt.keys`), so an entry is found by what it holds.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rotorquant import RotorQuantCache, RotorQuantError, Source
from rotorquant.config import RotorQuantConfig
from rotorquant.snapshot import FrozenCache
from rqchat.engine.document_cache.cache_folder import CacheEntry, CacheFolder, EntryLabel
from rqchat.engine.planning.plan import Candidate

__all__ = ["LEAST_TOKENS", "PrefixCache"]

LEAST_TOKENS = 2048  # below, reading again is as quick as looking


class PrefixCache:
    """Caches of long prefixes of one model, on disk. Writing happens in a thread.

    Args:
        folder: where they lie.
        model: the loaded model, for `RotorQuantCache.load`.
        name, revision: of the model; entries of another one are never found.
        chosen: the plan's choice; entries of other weights, or of another head, are not found.
    """

    def __init__(
        self, folder: CacheFolder, model: Any, name: str, revision: str, chosen: Candidate
    ) -> None:
        self._folder, self._model = folder, model
        self._name, self._revision, self._chosen = name, revision, chosen
        self._writer: threading.Thread | None = None
        self._stored_tokens = 0
        self._trouble = ""

    def load(
        self, cache: RotorQuantCache, keys: Sequence[int], more_than: int
    ) -> RotorQuantCache | None:
        """A stored cache with more than `more_than` of the first `keys`, or None.

        `cache` is reset where one is found. An entry that cannot be used is dropped.
        """
        # The conversation went back to `more_than`: what was stored beyond is no part of it now.
        self._stored_tokens = min(self._stored_tokens, more_than)
        if len(keys) < LEAST_TOKENS:
            return None
        entry = self._folder.find(self._group(cache), keys, max(more_than, LEAST_TOKENS - 1))
        if entry is None:
            return None
        cache.reset()  # two at once may be more than the plan has room for
        try:
            loaded = RotorQuantCache.load(
                entry.path,
                self._model,
                source=self._source(keys[: entry.tokens]),
                max_tokens=cache.config.max_tokens,
            )
        except RotorQuantError as error:
            self._report(f"what was read before cannot be used and is read again: {error}")
            self._drop(entry)
            return None
        self._folder.touch(entry)
        self._stored_tokens = entry.tokens
        return loaded

    def store(self, cache: RotorQuantCache, keys: Sequence[int], names: tuple[str, ...]) -> None:
        """Write `cache`, which holds `keys`, unless little is new in it since the last time."""
        if len(keys) - self._stored_tokens < LEAST_TOKENS:
            return
        self.wait()
        self._stored_tokens = len(keys)
        try:
            path = self._folder.begin(self._group(cache), keys)
            if path.exists():
                return
            frozen = cache.freeze(self._source(keys))
        except (OSError, RotorQuantError) as error:
            self._report_unwritten(error)
            return
        self._start_writing(frozen, path, names)

    def _start_writing(self, frozen: FrozenCache, path: Path, names: tuple[str, ...]) -> None:
        chosen = self._chosen
        label = EntryLabel(names, self._name, chosen.weights, chosen.kv_bits)
        self._writer = threading.Thread(
            target=self._write, args=(frozen, path, label), name="rqchat-prefix-cache", daemon=True
        )
        self._writer.start()

    def store_frozen(self, frozen: FrozenCache, keys: Sequence[int]) -> None:
        """Write a cache that was frozen before, unless it is short or there already."""
        if len(keys) < LEAST_TOKENS:
            return
        self.wait()
        header = replace(frozen.header, source=self._source(keys))
        try:
            path = self._folder.begin(self._group_of(frozen.header.config), keys)
            if path.exists():
                return
        except OSError as error:
            self._report_unwritten(error)
            return
        self._start_writing(FrozenCache(header, frozen.tensors), path, ())

    def wait(self) -> None:
        """Until what is being written is written."""
        writer, self._writer = self._writer, None
        # A join without timeout cannot be interrupted by Ctrl-C on every platform.
        while writer is not None and writer.is_alive():
            writer.join(0.1)

    def trouble(self) -> str:
        """What went wrong since the last call, as one line for the user; empty if nothing did."""
        trouble, self._trouble = self._trouble, ""
        return trouble

    def _write(self, frozen: FrozenCache, path: Path, label: EntryLabel) -> None:
        try:
            frozen.write(path)
            self._folder.finish(path, label)
        except (OSError, RotorQuantError) as error:
            self._report_unwritten(error)

    def _drop(self, entry: CacheEntry) -> None:
        try:
            self._folder.remove([entry])
        except OSError as error:
            self._report(f"{entry.path} cannot be used and not be removed: {error}")

    def _report_unwritten(self, error: Exception) -> None:
        reason = str(error)
        if isinstance(error, OSError) and error.filename:
            reason = f"{error.filename}: {error.strerror}"
        self._report(f"what was read is not kept for the next time: {reason}")

    def _report(self, trouble: str) -> None:
        self._trouble = trouble

    def _group(self, cache: RotorQuantCache) -> str:
        """Of all that makes the same tokens another cache; how many fit is no such thing."""
        return self._group_of(cache.config)

    def _group_of(self, cache_config: RotorQuantConfig) -> str:
        config = asdict(replace(cache_config, max_tokens=None))
        chosen = self._chosen
        identity = [self._name, self._revision, chosen.weights, chosen.head_bits, config]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]

    def _source(self, keys: Sequence[int]) -> Source:
        tokens = hashlib.sha256(json.dumps(list(keys)).encode()).hexdigest()
        return Source(self._name, self._revision, tokens)
