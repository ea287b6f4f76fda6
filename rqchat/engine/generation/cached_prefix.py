"""What the cache holds, so that a turn reads only what is new."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rqchat.engine.document_cache.kept_caches import KeptCaches
from rqchat.engine.document_cache.prefix_cache import PrefixCache
from rqchat.engine.generation.prompt import Prompt

__all__ = ["CachedPrefix"]

_LEAST_TOKENS = 256  # reading fewer again is as quick as keeping them


class _Mark(NamedTuple):
    """The cache's own mark, and the tokens that it holds there."""

    tokens: int
    mark: Any


class CachedPrefix:
    """A cache with the keys (`Prompt.keys`) of the tokens in it, and places to go back to.

    An answer is written into history differently from how it was generated: thoughts and the
    prefilled empty thought are gone. So the next turn shares tokens only up to where the answer
    began, and that is where a mark is set; another one at the end of the documents and pictures,
    for another question about them.
    """

    def __init__(self, cache: Any, most_marks: int, stored: PrefixCache | None = None) -> None:
        """`most_marks` are kept, the latest ones, each with what has been overwritten since.

        These copies lie in the host's memory: a GPU has none to spare. `stored` is asked for what
        was read at another time, and gets what is new.
        """
        self.cache = cache
        self.kept: KeptCaches | None = None
        self._most_marks, self._stored = most_marks, stored
        self._keys: list[int] = []
        self._marks: list[_Mark] = []

    def __len__(self) -> int:
        """Tokens in the cache."""
        return len(self._keys)

    def reuse(self, prompt: Prompt) -> int:
        """Goes to the longest beginning of `prompt` that is in the cache or on disk; its length.

        At least the last token is left to read, for its logits.
        """
        if self.kept is not None:
            self._set_aside(prompt, self.kept)
        cached = self._go_back(prompt)
        if self.kept is not None and (entry := self.kept.take(prompt.keys, cached)):
            self.cache.reset()  # two at once may be more than the plan has room for
            self._take_over(self.kept.thaw(entry, self.cache), prompt)
            cached = len(self._keys)
        if self._stored is not None:
            loaded = self._stored.load(self.cache, prompt.keys, cached)
            if loaded is not None:
                self._take_over(loaded, prompt)
            # The stored cache was of no use, but room was made for it.
            elif self.cache.get_seq_length() < cached:
                self.reset()
        return len(self._keys)

    def _take_over(self, cache: Any, prompt: Prompt) -> None:
        self.cache = cache
        self._keys = list(prompt.keys[: cache.get_seq_length()])
        self._marks = []
        # For later prompts to come back to, as if it had been read just now.
        self.mark()

    def _set_aside(self, prompt: Prompt, kept: KeptCaches) -> None:
        """Keeps a conversation that `prompt` would throw away, up to where its next turn begins."""
        common = _common_length(self._keys, prompt.keys)
        if common == len(self._keys) or not self._marks:
            return
        last = self._marks[-1].tokens
        left = max((mark.tokens for mark in self._marks if mark.tokens <= common), default=0)
        # A changed last message is the same conversation, of which little is read again
        if last - left < max(_LEAST_TOKENS, last // 4):
            return
        self._rewind()
        kept.put(self._keys, self.cache.freeze())

    def _go_back(self, prompt: Prompt) -> int:
        common = min(_common_length(self._keys, prompt.keys), len(prompt.keys) - 1)
        # A picture is read in one chunk, so nothing can begin inside of it.
        for span in prompt.images:
            if span.start < common < span.end:
                common = span.start
        # All of the cache is a beginning of the prompt.
        if common == len(self._keys):
            return common
        self._marks = [mark for mark in self._marks if mark.tokens <= common]
        if not self._marks:
            self.reset()
            return 0
        self._rewind()
        return len(self._keys)

    def extend(self, keys: Sequence[int]) -> None:
        """These tokens are in the cache now."""
        self._keys.extend(keys)

    def keep(self, prompt: Prompt) -> None:
        """Keep what is in the cache, a beginning of `prompt`, for another time."""
        if self._stored is not None:
            self._stored.store(self.cache, self._keys, prompt.names)

    def close(self) -> None:
        """Keep what the next turn would share, and wait until it is written."""
        if self._stored is None:
            return
        for keys, frozen in () if self.kept is None else self.kept.clear():
            self._stored.store_frozen(frozen, keys)
        if self._marks:
            self._rewind()
            self._stored.store(self.cache, self._keys, ())
        self._stored.wait()

    def mark(self) -> None:
        """Remember this place; the oldest one is forgotten if it is one too many."""
        self._marks = [mark for mark in self._marks if mark.tokens < len(self._keys)]
        # Its memory is freed before the next copy takes some
        del self._marks[: max(0, len(self._marks) + 1 - self._most_marks)]
        self._marks.append(_Mark(len(self._keys), self.cache.mark("cpu")))

    def _rewind(self) -> None:
        tokens, mark = self._marks[-1]
        self.cache.rewind(mark)
        del self._keys[tokens:]

    def recover(self) -> None:
        """After a step that broke off: back to the latest mark, or to the beginning."""
        if self._marks:
            self._rewind()
        else:
            self.reset()

    def replace(self, make_cache: Callable[[], Any]) -> None:
        """Another cache, empty; the old one is let go of first."""
        self.cache = None
        if self.kept is not None:
            self.kept.clear()  # of another form
        self._keys.clear()
        self._marks.clear()
        self.cache = make_cache()

    def reset(self) -> None:
        """Empty the cache."""
        self.cache.reset()
        self._keys.clear()
        self._marks.clear()


def _common_length(first: Sequence[int], second: Sequence[int]) -> int:
    length = 0
    for left, right in zip(first, second, strict=False):
        if left != right:
            break
        length += 1
    return length
