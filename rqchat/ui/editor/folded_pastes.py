"""Big pastes: one chip in the line that is typed, the whole text when the line is sent."""

from __future__ import annotations

import re

__all__ = ["FOLD_CHARACTERS", "FOLD_LINES", "Pastes"]

FOLD_LINES = 8
FOLD_CHARACTERS = 1_000
_CHIP = re.compile(r"\[Pasted [\d,]+ (?:lines?|characters) #(\d+)\]")


class Pastes:
    """All pastes of a run, so that a line from the history still means what it meant."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def fold(self, text: str) -> str:
        """What stands in the line for `text`: itself, or `[Pasted 123 lines #1]`."""
        lines = text.rstrip("\n").count("\n") + 1
        if lines < FOLD_LINES and len(text) < FOLD_CHARACTERS:
            return text
        self._texts.append(text)
        size = f"{lines:,} lines" if lines >= FOLD_LINES else f"{len(text):,} characters"
        return f"[Pasted {size} #{len(self._texts)}]"

    def unfold(self, line: str) -> str:
        """`line` with every chip's own text in its place; unknown chips stay as they are."""
        return _CHIP.sub(self._text_of, line)

    def chip_before(self, text: str) -> int:
        """Characters of the chip at the end of `text`; 0 where there is none."""
        chips = [chip for chip in _CHIP.finditer(text) if chip.end() == len(text)]
        return len(chips[0][0]) if chips and self._known(chips[0]) else 0

    def _known(self, chip: re.Match[str]) -> bool:
        return 0 < int(chip[1]) <= len(self._texts)

    def _text_of(self, chip: re.Match[str]) -> str:
        return self._texts[int(chip[1]) - 1] if self._known(chip) else chip[0]
