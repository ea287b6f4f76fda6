"""The thought channel is told from the answer, however it is cut into pieces."""

from __future__ import annotations

import pytest

from rqchat.engine.events import TextDelta, ThoughtDelta
from rqchat.engine.generation.text_stream import ThoughtSplitter


def _split(pieces: list[str]) -> tuple[str, str]:
    splitter = ThoughtSplitter()
    thought = answer = ""
    for piece in (*pieces, ""):
        is_mark = piece in ("<|channel>", "<channel|>")
        deltas = splitter.mark(piece) if is_mark else splitter.text(piece)
        for delta in deltas if piece else splitter.end():
            if isinstance(delta, ThoughtDelta):
                thought += delta.text
            else:
                assert isinstance(delta, TextDelta)
                answer += delta.text
    return thought, answer


def test_thought_and_answer_are_apart() -> None:
    pieces = ["<|channel>", "thought\nIt is ", "red.", "<channel|>", "\nThe star", " is red."]

    assert _split(pieces) == ("It is red.", "The star is red.")


def test_the_channels_name_may_come_in_pieces() -> None:
    assert _split(["<|channel>", "tho", "ught", "\n", "Hm.", "<channel|>", "Yes"]) == ("Hm.", "Yes")


@pytest.mark.parametrize(
    ("written", "thought"),
    [
        ("thought It is red.", "It is red."),
        ("thoughtIt is red.", "It is red."),
        ("thought: red", ": red"),
        ("It is red.", "It is red."),
        ("Hm.\nIt is red.", "Hm.\nIt is red."),
        ("thoughtful people\nsay red", "thoughtful people\nsay red"),
        ("thought I see:\n  red", "I see:\n  red"),
        ("thought \n  red", "  red"),
        ("thought", ""),
        ("th", "th"),
        ("", ""),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 99])
def test_a_thought_without_a_line_for_its_name_is_shown(
    written: str, thought: str, size: int
) -> None:
    """However the model's tokens cut it, and whether it ends by a mark or with the answer."""
    pieces = [written[at : at + size] for at in range(0, len(written), size)]

    assert _split(["<|channel>", *pieces, "<channel|>", "Yes."]) == (thought, "Yes.")
    assert _split(["<|channel>", *pieces]) == (thought, "")


def test_an_empty_thought_leaves_the_answer() -> None:
    assert _split(["<|channel>", "thought\n", "<channel|>", "Yes."]) == ("", "Yes.")


def test_without_a_channel_all_is_answer() -> None:
    assert _split(["  Yes", ", it ", "is.\n"]) == ("", "Yes, it is.\n")


def test_a_thought_that_never_ends_is_no_answer() -> None:
    assert _split(["<|channel>", "thought\nOn and on"]) == ("On and on", "")


def test_text_that_spells_a_mark_is_text() -> None:
    assert _split(["write <", "|channel> so"]) == ("", "write <|channel> so")
