"""Documents cut where the user asked for it: it fits, and what is left is where it was."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rqchat.engine.conversation import UserTurn
from rqchat.engine.generation.truncate import PLACES, Place, cut_documents
from rqchat.engine.inputs.documents import Document
from rqchat.errors import ContextLengthError

TEMPLATE_TOKENS = 7
MARK = re.compile(r"\n\[\.\.\. a part is left out here \.\.\.\]\n")


def _count(turn: UserTurn) -> int:
    """A token per capital letter and one per four other characters, as uneven as real ones."""
    texts = [turn.text, *(document.text + document.name for document in turn.documents)]
    return TEMPLATE_TOKENS + sum(
        sum(char.isupper() for char in text) + len(text) // 4 for text in texts
    )


def _turn(*texts: str) -> UserTurn:
    documents = tuple(Document(f"d{i}", text) for i, text in enumerate(texts))
    return UserTurn("why?", documents=documents)


@given(
    texts=st.lists(st.text(alphabet="abcD \n", min_size=1, max_size=400), min_size=1, max_size=4),
    limit=st.integers(40, 300),
    place=st.sampled_from(PLACES),
)
def test_it_fits_and_what_is_left_is_where_it_was(
    texts: list[str], limit: int, place: Place
) -> None:
    turn = _turn(*texts)
    cut = cut_documents(turn, limit, place, _count)

    assert _count(cut.turn) <= limit
    assert cut.dropped_tokens == _count(turn) - _count(cut.turn)
    assert cut.turn.text == turn.text
    assert (cut.turn == turn) is (_count(turn) <= limit)
    whole = "".join(texts)
    left = [MARK.split(document.text) for document in cut.turn.documents]
    joined = "".join(piece for pieces in left for piece in pieces)
    match place:
        case "head":
            assert whole.endswith(joined)
        case "tail":
            assert whole.startswith(joined)
        case "middle":
            half = (len(joined) + 1) // 2
            assert whole.startswith(joined[:half])
            assert whole.endswith(joined[half:])


@pytest.mark.parametrize(
    ("place", "expected"), [("head", "{0}c+"), ("tail", "a+{0}"), ("middle", "a+{0}c+")]
)
def test_the_cut_is_marked(place: Place, expected: str) -> None:
    cut = cut_documents(_turn("a" * 1000 + "c" * 1000), 45, place, _count)
    assert re.fullmatch(expected.format(MARK.pattern), cut.turn.documents[0].text)
    assert cut.whole_tokens == TEMPLATE_TOKENS + 1 + 500


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "text", ["a" * 100_000, "a" * 60_000 + "D" * 40_000, "D" * 50_000 + "a" * 50_000]
)
def test_the_room_is_used_to_within_some_tokens(text: str, place: Place) -> None:
    counted: list[UserTurn] = []

    def count(turn: UserTurn) -> int:
        counted.append(turn)
        return _count(turn)

    cut = cut_documents(_turn(text), 10_000, place, count)
    assert 10_000 - 8 <= _count(cut.turn) <= 10_000
    assert len(counted) <= 20


def test_a_question_that_is_too_long_itself() -> None:
    with pytest.raises(ContextLengthError, match=r"alone take 8 tokens of the 5") as raised:
        cut_documents(_turn("a" * 100), 5, "tail", _count)
    assert (raised.value.input_tokens, raised.value.context_tokens) == (8, 5)
