"""Documents cut to a number of tokens, where the user asks for it: never unasked. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rqchat.engine.conversation import UserTurn
from rqchat.engine.documents import Document
from rqchat.errors import InputError

__all__ = ["PLACES", "Cut", "Place", "cut_documents"]

Place = Literal["head", "middle", "tail"]
PLACES: tuple[Place, ...] = ("head", "middle", "tail")
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

    Tokens are spread unevenly over characters, so the share that is kept is found step by step,
    from above, each step counted exactly; some per cent of the limit may stay unused.

    Raises:
        InputError: it does not fit without any documents either.
    """
    whole = count(turn)
    if whole <= limit_tokens:
        return Cut(turn, 0, whole)
    bare = count(replace(turn, documents=()))
    length = kept = sum(len(document.text) for document in turn.documents)
    tokens = whole
    while kept > 0:
        share = (limit_tokens - bare) / (tokens - bare) if tokens > bare else 0.0
        kept = max(0, min(kept - 1 - kept // 100, int(kept * share)))
        left = replace(turn, documents=_keep(turn.documents, length, kept, place))
        tokens = count(left)
        if tokens <= limit_tokens and left.documents:
            return Cut(left, whole - tokens, whole)
    raise InputError(
        f"the question and the pictures alone take {bare:,} tokens of the {limit_tokens:,} that"
        " there are for the prompt; shorten them, or take a longer --context"
    )


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
