"""Facts that can be hidden in prose: a statement, ways to ask for it, and the answer.

Every answer repeats the statement's own words up to the value, and only then says the value or
that the text does not hold it. So 'is it there?' is decided at the place where the value would
stand, with the words to look for right before it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rqchat.pocket.training.language.words import (
    ADJECTIVES,
    ATTRIBUTES,
    FIRST_NAMES,
    NOUNS,
    PLACES,
    ROLES,
    SURNAMES,
)

__all__ = ["Fact", "Form", "new_word", "related_fact", "sample_fact"]


@dataclass(frozen=True, slots=True)
class Form:
    """One kind of sentence: `{s} <link> <value>.`

    Attributes:
        link: words between subject and value.
        absent: what an answer says instead of the value when the text has none.
        questions: ways to ask, with `{s}` for the subject.
    """

    link: str
    absent: str
    questions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fact:
    """A subject, the form of its sentence and its value."""

    subject: str
    form: Form
    value: str

    @property
    def statement(self) -> str:
        """The sentence as a document holds it, without its full stop."""
        return f"{_capital(self.subject)} {self.form.link} {self.value}"

    @property
    def answer(self) -> str:
        """The answer when the document holds the fact."""
        return self.statement + "."

    @property
    def absent_answer(self) -> str:
        """The answer when the document does not hold the fact."""
        return f"{_capital(self.subject)} {self.form.link} {self.form.absent}."

    def question(self, rng: random.Random) -> str:
        """One of the ways to ask for it."""
        text = rng.choice(self.form.questions).format(s=self.subject, S=_capital(self.subject))
        if rng.random() < 0.08:
            text = text[0].lower() + text[1:]
        return text.rstrip("?.") if rng.random() < 0.08 else text


_WHAT = (
    "What is {s}?",
    "What is {s}?",
    "What is {s}?",
    "What's {s}?",
    "Tell me {s}.",
    "Can you find {s}?",
    "Do you know {s}?",
    "{S}?",
    "Find {s}.",
    "According to the text, what is {s}?",
    "What does the text say about {s}?",
    "Please tell me {s}.",
    "I need {s}.",
    "Which is {s}?",
)
_IS = Form("is", "not in the text", _WHAT)
_WHO = Form(
    "is",
    "not in the text",
    (
        "Who is {s}?",
        "Who is {s}?",
        "Who's {s}?",
        "{S}?",
        "Tell me who {s} is.",
    ),
)
_WHERE = Form(
    "is in",
    "a place that is not in the text",
    ("Where is {s}?", "Where's {s}?", "Where can I find {s}?", "Tell me where {s} is."),
)
_KEPT = Form(
    "is kept in",
    "a place that is not in the text",
    ("Where is {s} kept?", "Where is {s}?", "Where do they keep {s}?"),
)
_LIVES = Form(
    "lives in",
    "a place that is not in the text",
    ("Where does {s} live?", "In which place does {s} live?", "Tell me where {s} lives."),
)
_BORN = Form(
    "was born in",
    "a year that is not in the text",
    ("When was {s} born?", "In which year was {s} born?", "What year was {s} born in?"),
)
_OPENS = Form(
    "opens at",
    "a time that is not in the text",
    ("When does {s} open?", "At what time does {s} open?", "What time does {s} open?"),
)
_LEAVES = Form(
    "leaves at",
    "a time that is not in the text",
    ("When does {s} leave?", "At what time does {s} leave?"),
)
_BUILT = Form(
    "was built in",
    "a year that is not in the text",
    ("When was {s} built?", "In which year was {s} built?"),
)
_COSTS = Form(
    "costs",
    "a sum that is not in the text",
    ("How much does {s} cost?", "What does {s} cost?"),
)
_WORKS = Form(
    "works as",
    "something that is not in the text",
    ("What does {s} do?", "What does {s} work as?"),
)


def sample_fact(rng: random.Random, vocabulary: Sequence[str]) -> Fact:
    """A random fact; words of real prose (`vocabulary`) are mixed in: copying stays general."""
    person = f"{rng.choice(FIRST_NAMES)} {rng.choice(SURNAMES)}"
    makers: tuple[tuple[float, Callable[[], Fact]], ...] = (
        (10.0, lambda: Fact(_attribute(rng, vocabulary), _IS, _value(rng, vocabulary))),
        (2.0, lambda: Fact(_attribute(rng, vocabulary, ROLES), _WHO, person)),
        (1.0, lambda: Fact(_thing(rng, vocabulary), _WHERE, "the " + _place(rng, vocabulary))),
        (1.0, lambda: Fact(_thing(rng, vocabulary), _KEPT, "the " + _place(rng, vocabulary))),
        (1.0, lambda: Fact(person, _LIVES, _word(rng, vocabulary).capitalize())),
        (0.5, lambda: Fact(person, _BORN, str(rng.randint(1500, 2030)))),
        (0.7, lambda: Fact(_thing(rng, vocabulary), _OPENS, _time(rng))),
        (0.5, lambda: Fact(_thing(rng, vocabulary), _LEAVES, _time(rng))),
        (0.7, lambda: Fact(_thing(rng, vocabulary), _BUILT, str(rng.randint(1100, 2030)))),
        (0.7, lambda: Fact(_thing(rng, vocabulary), _COSTS, _sum(rng))),
        (0.5, lambda: Fact(person, _WORKS, "a " + rng.choice(ROLES))),
    )
    weights = [weight for weight, _ in makers]
    return rng.choices(makers, weights)[0][1]()


def related_fact(rng: random.Random, fact: Fact, vocabulary: Sequence[str]) -> Fact:
    """A distractor that has to be told apart: the same form, a subject that differs in part."""
    words = fact.subject.split()
    if fact.form is _WHO:
        value = f"{rng.choice(FIRST_NAMES)} {rng.choice(SURNAMES)}"
    elif fact.form is _IS:
        value = _value(rng, vocabulary)
    else:
        return sample_fact(rng, vocabulary)
    position = rng.choice([i for i, word in enumerate(words) if word not in _SMALL_WORDS] or [0])
    pool = ADJECTIVES + NOUNS if rng.random() < 0.7 else tuple(rng.choices(vocabulary, k=8))
    words[position] = rng.choice(pool)
    return Fact(" ".join(words), fact.form, value)


_SMALL_WORDS = frozenset({"the", "of", "for", "at", "in", "number"})


def _attribute(
    rng: random.Random, vocabulary: Sequence[str], attributes: Sequence[str] = ATTRIBUTES
) -> str:
    kind = rng.random()
    attribute = rng.choice(attributes) if kind < 0.7 else _word(rng, vocabulary)
    if kind > 0.9:
        attribute = f"{_word(rng, vocabulary)} {attribute}"
    if rng.random() < 0.12:
        owner = rng.choice((rng.choice(FIRST_NAMES), _thing(rng, vocabulary)))
        return f"{owner}'s {attribute}"
    if rng.random() < 0.1:
        return f"the {attribute}"
    link = rng.choice(("of", "of", "for", "for", "for", "at", "in"))
    return f"the {attribute} {link} {_thing(rng, vocabulary)}"


def _thing(rng: random.Random, vocabulary: Sequence[str]) -> str:
    noun = rng.choice(NOUNS) if rng.random() < 0.7 else _word(rng, vocabulary)
    kind = rng.random()
    if kind < 0.25:
        return f"the {noun}"
    if kind < 0.35:
        return f"{_word(rng, vocabulary).capitalize()}"
    if kind < 0.42:
        return f"{noun} {rng.randint(1, 99)}"
    adjective = rng.choice(ADJECTIVES) if kind < 0.85 else _word(rng, vocabulary)
    return f"the {adjective} {noun}"


def _value(rng: random.Random, vocabulary: Sequence[str]) -> str:
    kind = rng.random()
    if kind < 0.42:
        return "".join(rng.choices("0123456789", k=rng.randint(2, 7)))
    if kind < 0.5:
        letters = "".join(rng.choices("ABCDEFGHJKLMNPQRSTUVWXYZ", k=rng.randint(1, 3)))
        digits = rng.randint(1, 9999)
        return rng.choice((f"{letters}-{digits}", f"{letters}{digits}", f"{digits}{letters}"))
    if kind < 0.75:
        return _word(rng, vocabulary)
    if kind < 0.82:
        return f"{_word(rng, vocabulary)} {_word(rng, vocabulary)}"
    if kind < 0.88:
        return f"{rng.choice(FIRST_NAMES)} {rng.choice(SURNAMES)}"
    return rng.choice((_time(rng), _sum(rng), f"the {_place(rng, vocabulary)}", _date(rng)))


def _word(rng: random.Random, vocabulary: Sequence[str]) -> str:
    """A common word, a word of the prose, or one that nobody has ever read."""
    kind = rng.random()
    if kind < 0.3:
        return rng.choice(ADJECTIVES + NOUNS)
    word = rng.choice(vocabulary) if kind < 0.9 else new_word(rng)
    return word.upper() if rng.random() < 0.03 else word


def new_word(rng: random.Random) -> str:
    syllables = rng.choices(_SYLLABLES, k=rng.randint(2, 4))
    return "".join(syllables)


_SYLLABLES = tuple(
    """ba be bi bo bu da de di do du fa fe fi fo ga go ka ke ki ko la le li lo lu ma me mi mo mu na
    ne ni no nu pa pe po ra re ri ro ru sa se si so su ta te ti to tu va ve vi vo wa wi xa xi ya yo
    za ze zo bar cor den fen gal hal jin kor lum mer nax oth pel qua rox sel tor ulm vex wyn yar zub
    th sh ch st tr br cl gr""".split()
)


def _place(rng: random.Random, vocabulary: Sequence[str]) -> str:
    return (
        rng.choice(PLACES) if rng.random() < 0.6 else _thing(rng, vocabulary).removeprefix("the ")
    )


def _time(rng: random.Random) -> str:
    return (
        f"{rng.randint(0, 23)}:{rng.choice(('00', '15', '30', '45', f'{rng.randint(0, 59):02d}'))}"
    )


def _sum(rng: random.Random) -> str:
    unit = rng.choice(("euros", "dollars", "pounds", "coins", "metres", "kilograms", "degrees"))
    return f"{rng.randint(2, 9999)} {unit}"


def _date(rng: random.Random) -> str:
    months = "January February March April May June July August September October November December"
    return f"{rng.randint(1, 28)} {rng.choice(months.split())} {rng.randint(1600, 2040)}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
