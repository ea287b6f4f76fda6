"""Documents cut to a number of tokens, where the user asks for it: never unasked. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rqchat.engine.conversation import UserTurn
from rqchat.engine.inputs.documents import Document
from rqchat.errors import ContextLengthError

__all__ = ["PLACES", "Cut", "Place", "cut_documents"]

Place = Literal["head", "middle", "tail"]
PLACES: tuple[Place, ...] = ("head", "middle", "tail")
_MOST_STEPS = 24
_UNUSED_TOKENS = 8  # of the limit, at most, unless the steps do not lead there
_GAP = "\n[... a part is left out here ...]\n"


@dataclass(frozen=True, slots=True)
class Cut:
    """A turn that fits.

    Attributes:
        turn: with what is left of the documents, and a line in them that says where they were cut.
        dropped_tokens: by how many tokens the prompt is shorter; 0 where it fitted before.
        whole_tokens: the prompt before.
    """

    turn: UserTurn
    dropped_tokens: int
    whole_tokens: int


def cut_documents(
    turn: UserTurn, limit_tokens: int, place: Place, count: Callable[[UserTurn], int]
) -> Cut:
    """Cuts the documents of `turn`, taken as one text, so that `count` is at most `limit_tokens`.

    What is kept is a number of characters, looked for between one that fits and one that does not:
    where the tokens of the two let expect it, and in the middle every third time, because tokens
    are spread unevenly over a text. Each try is counted exactly.

    Raises:
        ContextLengthError: it does not fit without any documents either.
    """
    whole = count(turn)
    if whole <= limit_tokens:
        return Cut(turn, 0, whole)
    bare = count(replace(turn, documents=()))
    length = sum(len(document.text) for document in turn.documents)
    found: UserTurn | None = None
    low, high = (0, bare), (length, whole)  # characters and the tokens that they make
    for step in range(_MOST_STEPS):
        free = limit_tokens - low[1]
        if high[0] - low[0] < 2 or free < 0 or (found and free <= _UNUSED_TOKENS):
            break
        share = 0.5 if step % 3 == 2 else free / max(1, high[1] - low[1])
        kept = low[0] + min(max(1, int((high[0] - low[0]) * share)), high[0] - low[0] - 1)
        tried = replace(turn, documents=_keep(turn.documents, length, kept, place))
        tokens = count(tried)
        if tokens <= limit_tokens:
            found, low = tried, (kept, tokens)
        else:
            high = (kept, tokens)
    if found is None:
        raise ContextLengthError(
            f"the question and the pictures alone take {bare:,} tokens of the {limit_tokens:,}"
            " that there are for the prompt; shorten them, or take a longer --context",
            input_tokens=bare,
            context_tokens=limit_tokens,
        )
    return Cut(found, whole - low[1], whole)


def _keep(
    documents: Sequence[Document], length: int, kept: int, place: Place
) -> tuple[Document, ...]:
    """The documents without `length - kept` characters at `place` of all of them."""
    first = {"head": 0, "middle": (kept + 1) // 2, "tail": kept}[place]
    after = first + length - kept
    left = []
    start = 0
    for document in documents:
        end = start + len(document.text)
        before_gap = document.text[: max(0, first - start)]
        after_gap = document.text[max(0, after - start) :]
        if end <= first or start >= after:
            left.append(document)
        elif before_gap or after_gap:
            left.append(replace(document, text=before_gap + _GAP + after_gap))
        start = end
    return tuple(left)
