"""The program under the screen benchmark: draws an answer that comes at 100 tokens/s, no model.

Writes the processor seconds that drawing took, per second of the answer, as `share=0.012;`.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator

from rqchat.engine.events import TextDelta
from rqchat.ui.console import Screen
from rqchat.ui.editor.line_editor import LineEditor
from rqchat.ui.markdown import InChat
from rqchat.ui.stream import AnswerView

__all__ = ["main"]

_TOKENS_PER_S = 100
_SECONDS = 8
_TOKEN_CHARACTERS = 4  # of English, about
_ANSWER = """
## What it does

The function below reads a *file* and counts the **words** in it; a word is whatever stands between
blanks, so that `don't` is one. It is slow for large files, because it holds all of the text.

1. It opens the file.
2. It splits the text at blanks.
3. It counts the pieces, each under its own spelling.

```python
def count_words(path: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    with open(path, encoding="utf-8") as file:
        for word in file.read().split():
            counts[word] = counts.get(word, 0) + 1  # a new word begins at 0
    return counts
```

| step | cost |
|---|---|
| reading | the size of the file |
| counting | one look-up for each word |
"""


class _Answering:
    """An answer that is on its way until it is over."""

    is_over = False

    def status(self, columns: int) -> str:
        return "a model | bf16 | 4-bit KV | 1,234 of 262,144 tokens (0 %) | 21.0 GiB VRAM"

    def heading(self, columns: int) -> list[tuple[str, str]]:
        return []

    def attached(self) -> str:
        return ""

    def must_wait(self, line: str) -> bool:
        return True

    def is_answering(self) -> bool:
        return not self.is_over

    def stop(self) -> None:
        self.is_over = True

    def failure(self) -> BaseException | None:
        return EOFError() if self.is_over else None


def main() -> None:
    """Draw, and say what it cost."""
    work, screen = _Answering(), Screen()
    editor = LineEditor(work, history_path=None, commands={})
    screen.live = editor.live
    shares: list[float] = []

    def answer() -> None:
        time.sleep(1.0)  # the prompt is there by then
        _spend(None)  # what the clock and its loop cost
        idle_s = _spend(None)
        view = AnswerView(screen, chat=InChat())
        for piece in _pieces(1):
            view.show(TextDelta(piece))  # what is loaded once
        shares.append((_spend(view) - idle_s) / _SECONDS)
        view.close()
        work.stop()
        editor.wake()

    threading.Thread(target=answer, daemon=True).start()
    try:
        editor.read()
    except EOFError:
        sys.stdout.write(f"share={shares[0]:.5f};\n")


def _spend(view: AnswerView | None) -> float:
    """Processor seconds of this process while the answer comes, shown or not."""
    begun_s, begun_cpu_s = time.monotonic(), time.process_time()
    for number, piece in enumerate(_pieces(_SECONDS)):
        time.sleep(max(0.0, begun_s + number / _TOKENS_PER_S - time.monotonic()))
        if view is not None:
            view.show(TextDelta(piece))
    return time.process_time() - begun_cpu_s


def _pieces(seconds: int) -> Iterator[str]:
    text = _ANSWER * (1 + seconds * _TOKENS_PER_S * _TOKEN_CHARACTERS // len(_ANSWER))
    for number in range(seconds * _TOKENS_PER_S):
        yield text[number * _TOKEN_CHARACTERS : (number + 1) * _TOKEN_CHARACTERS]


if __name__ == "__main__":
    main()
