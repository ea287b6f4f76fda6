"""Everyday notes: what is said, asked and answered, and how an answer is judged."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rqchat.errors import InputError
from rqchat.pocket.training.language.dialogues import Prose, Turn
from rqchat.pocket.training.notes.asking import Wanted, copy_questions, read_notes
from rqchat.pocket.training.notes.lexicon import words
from rqchat.pocket.training.notes.note_facts import draw_fact
from rqchat.pocket.training.notes.note_tables import draw_table
from rqchat.pocket.training.notes.notes import document_of_notes, note_conversation
from rqchat.pocket.training.notes.subjects import conjugate, for_answer
from rqchat.pocket.training.notes.values import KINDS, Maker

SEEDS = st.integers(0, 2**32)
PROSE = Prose(
    ("The tide turned. Nobody saw it! Was it late? " * 40,), ("walrus", "copper", "violet")
)
EVERYDAY = Path(__file__).with_name("everyday_notes.txt")
ABSENT = "not in the text"


def maker(seed: int, *, held_out: bool = False) -> Maker:
    return Maker(random.Random(seed), PROSE.vocabulary, held_out=held_out)


def conversation(seed: int) -> list[Turn]:
    return note_conversation(random.Random(seed), PROSE, "3 million", turns=3)


@given(SEEDS)
@settings(max_examples=200, deadline=None)
def test_a_statement_and_its_answer_hold_the_value_and_the_absent_answer_does_not(
    seed: int,
) -> None:
    m = maker(seed)
    fact = draw_fact(m)
    asked = fact.asked(m)
    assert fact.value.split(" ", 1)[-1][1:] in fact.statement  # "moved to 9:30", not "at 9:30"
    if len(fact.value) > 3:
        assert fact.value not in asked.absent or fact.value in asked.question
    assert ABSENT in asked.absent
    assert ABSENT not in asked.answer


@given(SEEDS)
@settings(max_examples=200, deadline=None)
def test_no_template_mark_is_left(seed: int) -> None:
    m = maker(seed)
    fact = draw_fact(m)
    asked = fact.asked(m)
    for text in (fact.statement, asked.question, asked.answer, asked.absent):
        bare = text.replace(fact.value, "V").replace(fact.other, "V")
        assert not re.search(r"[{}@]|  |\?\?", bare), text


def spoken(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


@given(SEEDS)
@settings(max_examples=150, deadline=None)
def test_an_answer_is_made_of_words_of_the_note_and_the_question(seed: int) -> None:
    """But for the words that turn a line of a list into a sentence, and 'your' for 'my'."""
    m = maker(seed)
    fact = draw_fact(m)
    known = spoken(f"{fact.statement} {fact.asked(m).question} {fact.relation.says[0]}")
    known |= {conjugate(word, 2) for word in known} | {conjugate(word, 1) for word in known}
    known |= {word.removesuffix("s") for word in known}  # "Bordeauxs door", as people type
    # A list leaves out the "on" of a day and the "at" of a time
    assert spoken(fact.answer) <= known | {"you", "your", "are", "is", "the", "on", "at"}


@given(SEEDS)
@settings(max_examples=100, deadline=None)
def test_the_same_seed_gives_the_same_conversation(seed: int) -> None:
    assert conversation(seed) == conversation(seed)


def test_about_one_question_in_five_asks_for_what_is_not_there() -> None:
    turns = [turn for seed in range(600) for turn in conversation(seed)]
    share = sum(ABSENT in turn.answer for turn in turns) / len(turns)
    assert 0.12 < share < 0.3


def test_what_is_denied_is_not_stated() -> None:
    """An absent fact's subject never stands in the note with the words of its relation."""
    checked = 0
    for seed in range(400):
        document, turns = document_of_notes(random.Random(seed), PROSE, 100, 3, 4)
        for turn in turns:
            before = turn.answer.partition(" a place that")[0].partition(" not in the text")[0]
            if (
                ABSENT in turn.answer
                and " is" in before
                and not re.match("your|there", before.lower())
            ):
                checked += 1
                assert before.rstrip(".") + " " not in document
    assert checked > 50


def test_words_kept_from_training_are_never_drawn_in_training() -> None:
    seen = {maker(seed).word("thing") for seed in range(3000)}
    kept = {maker(seed, held_out=True).word("thing") for seed in range(600)}
    assert seen.isdisjoint(kept)
    assert len(seen) + len(kept) == len(set(words("thing")))


@given(SEEDS)
@settings(max_examples=150, deadline=None)
def test_an_answer_about_a_table_is_made_of_its_words(seed: int) -> None:
    text, asked, absent = draw_table(maker(seed))
    joining = set("is are the there on you have to of and costs cost in it s default be".split())
    joining |= {"buy", "bring", "invited", "present", "missing", "team", "ingredients", "colours"}
    joining |= {"two", "three", "four", "five", "six", "people"}
    for one in asked:
        assert spoken(one.answer) <= spoken(text) | spoken(one.question) | joining
    for one in absent:
        assert ABSENT in (one.absent or one.answer)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_values_are_one_line_without_spaces_around(kind: str) -> None:
    for seed in range(60):
        value = KINDS[kind](maker(seed))
        assert value == value.strip()
        assert value
        assert "\n" not in value


@pytest.mark.parametrize(
    ("verb", "third"),
    [
        ("live", "lives"),
        ("go", "goes"),
        ("watch", "watches"),
        ("carry", "carries"),
        ("play", "plays"),
        ("has", "has"),
    ],
)
def test_verbs_agree_with_one_person(verb: str, third: str) -> None:
    assert conjugate(verb, 1) == third


def test_the_askers_own_things_are_called_yours() -> None:
    assert for_answer("my sister gave me our key") == "your sister gave you your key"
    assert for_answer("Anna's email") == "Anna's email"


@pytest.mark.parametrize(
    ("wanted", "answer", "right"),
    [
        (Wanted((("Bergen",),)), "Paul lives in Bergen.", True),
        (Wanted((("Bergen",),)), "Paul lives in Bergenfield.", False),
        (Wanted((("7.20",),), ("4.50",)), "It costs 4.50 and 7.20.", False),
        (Wanted((("-",),)), "Paul lives in a place that is not in the text.", True),
        (Wanted((("Bergen",),)), "Bergen is not in the text.", False),
        (Wanted((("no",),)), "No, it is closed.", True),
        (Wanted((("no",),)), "Nobody knows.", False),
        (Wanted((("milk", "bread"),)), "You need bread and milk.", True),
        (Wanted((("milk", "bread"),)), "You need bread.", False),
        (Wanted((("3 pm",), ("15:00",))), "At 15:00.", True),
        (Wanted(exact="It is 5."), "It is 5", False),
    ],
)
def test_answers_are_judged(wanted: Wanted, answer: str, right: bool) -> None:
    assert wanted.accepts(answer) is right


def test_a_file_of_notes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(
        "# remark\n\n## place\nThe key\nis here.\n? Where? = here\n+ And? = -\n"
        "\nB.\n? Who? = B | C & D\n"
    )
    first, second, third = read_notes(path)
    assert (first.kind, first.follows, second.kind, second.follows) == (
        "place",
        False,
        ABSENT,
        True,
    )
    assert first.turn.documents[0].text == "The key\nis here."
    assert second.turn.documents == ()
    assert third.wanted.ways == (("B",), ("C", "D"))


def test_a_question_without_an_answer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("A.\n? Where?\n")
    with pytest.raises(InputError, match="notes.txt:2"):
        read_notes(path)


def test_there_are_150_everyday_notes_by_hand() -> None:
    found = read_notes(EVERYDAY)
    assert len({question.turn.documents for question in found if not question.follows}) >= 150
    assert sum(question.kind == ABSENT for question in found) >= 25


@pytest.mark.parametrize("length", [12, 40])
def test_strings_to_copy_have_their_length(length: int) -> None:
    for question in copy_questions(1, 20, length):
        (value,) = question.wanted.ways[0]
        assert len(value) == length
        assert value in question.turn.documents[0].text
