"""`rqchat` over a fake model with scripted answers: the program of the terminal tests."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from rqchat.cli import app, open_session
from rqchat.engine.conversation import UserTurn
from rqchat.engine.events import Event, LoadProgress, PrefillProgress
from rqchat.engine.settings import SamplingSettings, Settings
from tests.cli.fake_session import FakeSession
from tests.screen_oracle import MISCHIEF

__all__ = ["Talker", "main"]

MARKDOWN = "# Title\n\nSome **bold** text.\n\n```python\nreturn 1\n```\n\nthe end"
SHOWN = """A word is whatever stands between blanks, so that `don't` is **one**:

```python
def count_words(path: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for word in open(path).read().split():
        counts[word] = counts.get(word, 0) + 1  # a new word begins at 0
    return counts
```

The manual says of it:

> If *sep* is not given, runs of whitespace are one separator.

| step | cost |
|---|---|
| reading | the size of the file |
| counting | one look-up a word |

1. Try it with a small file.
2. For a large one, read line by line.
"""
SCRIPTS = "日本語のテキスト 👩‍👩‍👧 שלום עולם e\u0301 a\u0308 ✅ | the end"
ESCAPES = f"before \x1b]0;owned\x07 {' '.join(MISCHIEF)} after"


class Talker(FakeSession):
    """Answers by the first word of the question."""

    def ask(self, turn: UserTurn, sampling: SamplingSettings, **options: Any) -> Any:
        self._stopped = False
        if turn.text.startswith("read"):
            for done in range(1, 2000):
                if self._stopped:
                    break
                yield PrefillProgress(done, 2000, 0, done / 100)
                time.sleep(0.01)
        stopped = self._stopped
        begun = options.get("begun", "")
        self.thoughts = ["They ", "want ", "words."] if turn.text.startswith("show") else []
        script: Any = _script(turn.text, begun)  # as long as it is asked for more
        self.script = script
        for event in super().ask(turn, sampling, **options):
            if stopped:
                self._stopped = True
            yield event


def _script(question: str, begun: str) -> Iterator[str]:
    if begun:
        yield " went on"
        return
    match question.split()[0]:
        case "count":
            for number in itertools.count():
                time.sleep(0.01)
                yield f"word{number} "
        case "markdown":
            yield from MARKDOWN
        case "show":
            yield from SHOWN
        case "many":
            yield from SCRIPTS
        case "misbehave":
            yield from ESCAPES
        case _:
            yield "hello"


def main() -> None:
    """Run the chat; the model takes `LOAD_S` seconds to load."""

    def open_fake(
        settings: Settings, system: str | None, on_event: Callable[[Event], None]
    ) -> Talker:
        on_event(LoadProgress("loading weights", 1, 2))
        time.sleep(float(os.environ.get("LOAD_S", "0.2")))
        return Talker()

    open_session.open_session = open_fake
    app.main([])
