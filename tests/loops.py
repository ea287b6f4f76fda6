"""`python -m tests.loops`: real texts that must pass the loop guard, and loops.

Texts are replayed as answers, token by token, in the pocket model's tokens: its small vocabulary
makes the most of them, and rows of dashes and zeros the longest.
"""

from __future__ import annotations

import json
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from tokenizers import Tokenizer

import rqchat
from rqchat.engine.generation.repetition import LoopGuard

__all__ = ["caught_after", "made_up_loops", "real_texts"]

_REPOSITORY = Path(__file__).parents[1]
_CHARACTERS = 20_000  # of a text; no answer is longer
_LEAST_CHARACTERS = 500
_SOURCES, _TABLES, _TOPICS, _LICENCES = 100, 30, 30, 20
_SENTENCES = (
    "I am not sure what you mean by that.",
    "The tide came in before noon and nobody spoke of the storm.",
    "Let me know if you need anything else!",
    "As an assistant, I cannot answer this question, but I can try to help you with another one.",
    "Das ist nicht dasselbe wie gestern, und morgen wird es anders sein.",
    "これは長い文の一部です。",
    "Wait, let me check that again. No, it is right. Actually, it is not.",
    "First, open the file; then read it; then close it again, and repeat.",
)
_ITEMS = (
    '{"name": "", "value": null}, ',
    '{"id": 17, "city": "Paris"}, ',
    '"blue", "blue", ',
    "[0, 1], ",
    "<td>0</td>",
    "    x = x + 1\n",
    "| yes | no | yes |\n",
    "- [ ] todo\n\n",
    "return None\n\n    return None\n",
    "// TODO: implement this\n",
)
_TOKENS = (
    " the",
    "ha",
    "\n",
    "\t",
    " ",
    "no ",
    "0, ",
    "🙂",
    "\\n",
    "=",
    "a-b ",
    ".\n",
    "\n\n* ",
)
_LISTED = (
    "Paris",
    "A red apple",
    "Add salt and pepper to taste",
    "Check the logs for errors and restart the server.",
)


def real_texts() -> Iterator[tuple[str, str]]:
    """Name and text of 200 texts: sources and documentation of the standard library, tables of
    characters, licences, this repository's pages, and rhymes that repeat themselves."""
    library = Path(sysconfig.get_paths()["stdlib"])
    sources = sorted(p for p in library.glob("*.py") if p.stat().st_size >= _LEAST_CHARACTERS)
    tables = sorted((library / "encodings").glob("cp*.py")) + [library / "html" / "entities.py"]
    for path in (*sources[:_SOURCES], *tables[-_TABLES:]):
        yield path.name, path.read_text(encoding="utf-8")
    from pydoc_data.topics import topics

    yield from islice(((n, t) for n, t in topics.items() if len(t) > _LEAST_CHARACTERS), _TOPICS)
    packages = Path(sysconfig.get_paths()["purelib"])
    licences = sorted(packages.glob("*.dist-info/**/LICENSE*"))[:_LICENCES]
    pages = sorted((_REPOSITORY / "docs").rglob("*.md"))
    rhymes = tuple(_rhymes())
    left = 200 - _SOURCES - _TABLES - _TOPICS - _LICENCES - len(rhymes)
    for path in (*licences, *islice((p for p in pages), left)):
        yield f"{path.parent.name}/{path.name}", path.read_text(encoding="utf-8", errors="replace")
    yield from rhymes


def _rhymes() -> Iterator[tuple[str, str]]:
    bottles = "{0} green bottles\nHanging on the wall,\n{0} green bottles\nHanging on the wall,\n"
    fall = "And if one green bottle\nShould accidentally fall,\nThere'll be {1} green bottles\n"
    numbers = "Ten Nine Eight Seven Six Five Four Three Two One No".split()
    pairs = zip(numbers, numbers[1:], strict=False)
    yield (
        "bottles",
        "\n".join((bottles + fall + "Hanging on the wall.\n").format(*p) for p in pairs),
    )
    row = "Row, row, row your boat,\nGently down the stream.\nMerrily, merrily, merrily, merrily,\n"
    yield "row", f"{row}Life is but a dream.\n\n" * 2
    gifts = "a partridge in a pear tree,two turtle doves,three French hens,four calling birds"
    said = gifts.split(",")
    days = enumerate("first second third fourth".split(), 1)
    on = "On the {} day of Christmas my true love sent to me\n"
    yield "gifts", "\n".join(on.format(d) + ",\n".join(said[:n][::-1]) for n, d in days)
    built = "that lay in the house that Jack built.,that ate the malt,that killed the rat".split(
        ","
    )
    whole = ("\n".join(built[:n][::-1]) for n in range(1, 4))
    yield "Jack", "\n\n".join(f"This is the one\n{verse}" for verse in whole)
    table = "".join(f"| {n} | {n * n} | {n % 3 == 0} | yes |\n" for n in range(200))
    yield "table", f"| n | square | thirds | known |\n|---|---|---|---|\n{table}"
    rules = ("=" * 79 + f"\nPart {n}\n" + "-" * 79 + "\n" + "." * 60 + "\n" for n in range(9))
    yield "rules", "".join(rules)
    yield "zeros", "MATRIX = [\n" + "    [0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0],\n" * 3 + "]\n"
    cases = "".join(f"        case {n}:\n            return {n * 7 % 11}\n" for n in range(40))
    yield "switch", f"int f(int x) {{\n    switch (x) {{\n{cases}    }}\n}}\n"


def made_up_loops() -> Iterator[str]:
    """Fifty beginnings of loops, each long enough to be caught."""
    count = 0
    for part in (*_TOKENS, *_ITEMS, *(f"{sentence} " for sentence in _SENTENCES)):
        yield part * (20_000 // len(part))  # a token may stand for a hundred blanks
        count += 1
    for first, second in zip(_SENTENCES[:5], _SENTENCES[1:6], strict=True):
        yield f"{first}\n{second}\n\n" * 100
        count += 1
    for style in ("{n}. {item}\n", "{n}) {item}\n\n", "- {item}\n"):
        for item in _LISTED:
            yield "".join(style.format(n=n, item=item) for n in range(1, 200))
            count += 1
    for answers in (("Yes", "No"), ("Red", "Green", "Blue")):
        yield "".join(f"{n}. {answer}\n" for n in range(200) for answer in answers)
        count += 1
    assert count == 50, count


def caught_after(tokenizer: Tokenizer, text: str) -> int | None:
    """Tokens of `text` after which it is taken for a loop; None where it never is."""
    guard, encoding = LoopGuard(), tokenizer.encode(text, add_special_tokens=False)
    for place, (token, (start, end)) in enumerate(
        zip(encoding.ids, encoding.offsets, strict=True), 1
    ):
        if guard.is_loop(token, text[start:end]):
            return place
    return None


def main() -> None:
    """Print what was caught, and one line of JSON."""
    folder = Path(rqchat.__file__).parent / "pocket"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    begun_s = time.process_time()
    false: list[str] = []
    texts = characters = 0
    for name, text in real_texts():
        place = caught_after(tokenizer, text[:_CHARACTERS])
        texts, characters = texts + 1, characters + len(text[:_CHARACTERS])
        if place is not None:
            false.append(f"{name} at token {place}")
    places = [caught_after(tokenizer, loop) for loop in made_up_loops()]
    summary = _summary(texts, characters, false, places, time.process_time() - begun_s)
    sys.stdout.write(json.dumps(summary) + "\n")


def _summary(
    texts: int, characters: int, false: Sequence[str], places: Sequence[int | None], cpu_s: float
) -> dict[str, object]:
    late = [place for place in places if place is None or place > 200]
    found = [place for place in places if place is not None]
    return {
        "texts": texts,
        "characters": characters,
        "false_alarms": list(false),
        "loops": len(places),
        "not_within_200_tokens": late,
        "latest": max(found),
        "cpu_s": round(cpu_s, 1),
    }


if __name__ == "__main__":
    main()
