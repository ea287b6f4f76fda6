"""Ends an answer before a text that its reader asked to stop at."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["StopFilter"]


class StopFilter:
    """Passes text on, but for what may be the beginning of a stop text.

    Attributes:
        found: the stop text that came, or None.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""
        self.found: str | None = None

    def add(self, piece: str) -> str:
        """What can be shown now that `piece` has come."""
        if not self._stops or self.found is not None:
            return "" if self.found is not None else piece
        text = self._held + piece
        places = [(text.find(stop), stop) for stop in self._stops if stop in text]
        if places:
            place, self.found = min(places, key=lambda found: found[0])
            self._held = ""
            return text[:place]
        kept = self._open_characters(text)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def end(self) -> str:
        """What was held back, when nothing comes any more."""
        held, self._held = self._held, ""
        return held

    def _open_characters(self, text: str) -> int:
        """How many characters at the end of `text` are the beginning of a stop text."""
        for count in range(min(self._longest - 1, len(text)), 0, -1):
            end = text[-count:]
            if any(stop.startswith(end) for stop in self._stops):
                return count
        return 0
