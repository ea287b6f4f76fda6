"""One fact of a note: its statement, the questions that ask for it, and the answers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from rqchat.pocket.training.language.facts import new_word
from rqchat.pocket.training.notes.lexicon import words
from rqchat.pocket.training.notes.relations import Relation, relations
from rqchat.pocket.training.notes.subjects import (
    Subject,
    conjugate,
    draw_subject,
    for_answer,
    related_subject,
)
from rqchat.pocket.training.notes.values import ABSENT, KINDS, STATES, Maker

__all__ = ["Asked", "NoteFact", "capital", "draw_fact", "near_miss"]

_LABELS = re.compile(r"^\{[vb]\}|: |=|^New |^Use |\{[wx]\}")
_LEADS = (
    "Please tell me:|Quick question:|Hi,|Hey,|So|Tell me,|One more thing:"
    "|According to the text,|Ok,"
)
_BARE = {
    "until": "a time that is not in the text",
    "clock": "a time that is not in the text",
    "span": "a time that is not in the text",
    "date": "a date that is not in the text",
    "city": "a place that is not in the text",
    "person": "somebody who is not in the text",
    "amount": "a sum that is not in the text",
}
_SIZES = {
    "long": "length",
    "high": "height",
    "wide": "width",
    "tall": "height",
    "deep": "depth",
    "thick": "thickness",
    "warm": "temperature",
    "years": "age",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, its answer when the text holds the fact, and when it does not."""

    question: str
    answer: str
    absent: str


@dataclass(frozen=True, slots=True)
class NoteFact:
    """A relation between a subject and a value, stated in the way `index`.

    Attributes:
        kind: of the value, for `ABSENT` and for another value.
        fills: further words of the templates, by their letter.
        other: another value of the same kind, for questions that are answered with no.
    """

    relation: Relation
    index: int
    subject: Subject
    kind: str
    value: str
    other: str
    fills: dict[str, str] = field(default_factory=dict)

    @property
    def statement(self) -> str:
        """The sentence without its full stop."""
        template = self.relation.says[self.index]
        text = self._write(template, self.subject, self.value)
        # A code is copied to the letter, also where it begins a sentence.
        return text if self.kind == "any" and template.startswith("{v}") else capital(text)

    @property
    def key(self) -> tuple[str, str, int]:
        """What may be said once in a note."""
        return self.subject.text.lower(), self.relation.says[0], self.index if self._own else 0

    @property
    def _own(self) -> bool:
        """Whether every statement of the relation is another relation."""
        return any("@" in ask for ask in self.relation.asks)

    def asked(self, m: Maker) -> Asked:
        """One of the questions for the value."""
        ask, flag = m.rng.choice(self._open(self.relation.asks))
        question = self._write(ask, self.subject, self.value)
        if flag == "who":
            answer = self._answer(self.relation.says[1], self.value)
            return Asked(capital(question), answer, f"{capital(self.value)} is not in the text.")
        if self.kind == "duty":
            return Asked(_ask(m, question), self.answer, _nobody(question))
        plain, bare = self._part(self._plain, flag), self._part(self._bare, flag)
        return Asked(_ask(m, question), self._answer(plain, self.value), self._absent(bare))

    def _part(self, plain: str, flag: str) -> str:
        """Of a statement with two values the part that `flag` asks for."""
        if "{y}" in plain:
            return plain.replace(" {y}", "") if flag == "v" else plain.replace("{v} ", "")
        if flag in ("v", "w"):
            first, second = plain.split(" and ", 1)
            return first if flag == "v" else "{s} " + second
        return plain

    def asked_who(self, m: Maker) -> Asked | None:
        """A question for the subject, given the value."""
        open_questions = self._open(self.relation.who)
        if not open_questions or self.subject.person != 1 and self.subject.text != "we":
            return None
        ask, _ = m.rng.choice(open_questions)
        if ask.startswith("Who") != self.subject.kind.startswith(("person", "we", "team", "role")):
            return None
        question = self._write(ask, Subject("", "who"), self.value)
        return Asked(_ask(m, question), self.answer, _nobody(question))

    def asked_sure(self, m: Maker) -> Asked | None:
        """A yes-or-no question; the answer repeats what is so."""
        open_questions = self._open(self.relation.sure)
        if not open_questions or self.other == self.value:
            return None
        ask, flag = m.rng.choice(open_questions)
        yes = m.rng.random() < 0.5
        if flag in ("yes", "no"):
            yes = flag == "yes"
        asked_value = self.value if yes or flag == "no" else self.other
        question = self._write(ask, self.subject, asked_value)
        answer = self._answer(self._plain, self.value)
        if answer.split()[0] not in _names(self.subject):
            answer = answer[0].lower() + answer[1:]
        answer = f"{'Yes' if yes else 'No'}, {answer}"
        return Asked(_ask(m, question), answer, self._absent(self._bare))

    @property
    def answer(self) -> str:
        """The statement as an answer."""
        return self._answer(self._plain, self.value)

    @property
    def _plain(self) -> str:
        says = self.relation.says
        return says[0] if _LABELS.search(says[self.index]) and not self._own else says[self.index]

    @property
    def _bare(self) -> str:
        """What is said of a value that is not there, in the plainest way."""
        return self._plain if self._own else self.relation.says[0]

    def _open(self, questions: Sequence[str]) -> list[tuple[str, str]]:
        """(question, flag) of those that fit this statement."""
        found = []
        for text in questions:
            question, _, which = text.partition("@")
            number, _, flag = which.partition("!")
            if "!" in question:
                question, _, flag = question.partition("!")
            if not number or int(number) == self.index:
                found.append((question, flag))
        return found

    def _answer(self, template: str, value: str) -> str:
        swapped = for_answer(self.subject.text)
        person = 2 if swapped == "you" else self.subject.person
        text = self._write(for_answer(template), Subject(self.subject.kind, swapped, person), value)
        return capital(text) + "."

    def _absent(self, plain: str) -> str:
        plain = (
            plain.replace('"', "")
            .replace(" now ", " ")
            .replace("{t}", "to {v}")
            .replace("{f}", "from {v}")
            .replace("{w}", "{v}")
            .replace("{V}", "{v}")
        )
        plain = re.sub(r"\b(a|no) \{k\}", "{v}", plain).replace("{s} {k}", "{s} did {v}")
        before, _, after = plain.partition("{v}")
        if not before:
            return self._answer(
                "Something that is not in the text" + after.replace(" are ", " is "), ""
            )
        size = _SIZES.get((after.split() or [""])[0])
        if size:
            return self._answer(
                f"{{s}} {{has}} {'an' if size == 'age' else 'a'} {size} that is not in the text", ""
            )
        if after.strip().startswith("{p}"):
            return self._answer(before + "a number of {p} that is not in the text", "")
        if before.rstrip().endswith(("{is}", " is")) and self.kind not in (
            "place",
            "when",
            "city",
            "date",
        ):
            return self._answer(before + "not in the text", "")
        if before.rstrip().endswith((" at", " from", " for", " on", " to")):
            return self._answer(
                before + _BARE.get(self.kind, "something that is not in the text"), ""
            )
        if "{y}" in plain:
            kind = "when" if self.kind == "from" else "place"
            return self._answer(plain.replace("{y}", ABSENT[kind]), "")
        if "{v}" not in plain:
            return self._answer("{s} {do} something that is not in the text", "")
        return self._answer(before + ABSENT.get(self.kind, "something that is not in the text"), "")

    def _write(self, template: str, subject: Subject, value: str) -> str:
        fills = {"s": subject.text, "v": value, **self.fills}
        if self.kind == "city":
            fills |= {"f": value.replace("in ", "from ", 1), "t": value.replace("in ", "to ", 1)}

        def fill(match: re.Match[str]) -> str:
            word = match[1]
            return fills[word] if word in fills else conjugate(word, subject.person)

        return re.sub(r"\{(\w+)\}", fill, template)


def capital(text: str) -> str:
    """With a capital first letter."""
    return text[:1].upper() + text[1:]


def _nobody(question: str) -> str:
    asked = question[0].lower() + question[1:].rstrip("?")
    return for_answer(f"It is not in the text {asked}.")


def _names(subject: Subject) -> set[str]:
    first = subject.text.split()[0]
    return {first} if first[0].isupper() and first != "I" else set()


def _ask(m: Maker, question: str) -> str:
    """Typed by people: mostly tidy, sometimes in small letters or without the mark."""
    question, pick = capital(question), m.rng.random()
    if pick < 0.1:
        question = question[0].lower() + question[1:]
    if 0.05 < pick < 0.15:
        question = question.rstrip("?.")
    if 0.15 < pick < 0.2:
        if question[1:2].islower():
            question = question[0].lower() + question[1:]
        question = f"{m.one(_LEADS)} {question}"
    return question


def _fills(m: Maker, relation: Relation, kind: str) -> dict[str, str]:
    text = " ".join((*relation.says, *relation.asks))
    fills: dict[str, str] = {}
    if "{p}" in text:
        fills["p"] = m.odd("pupil")
    if "{o}" in text:
        fills["o"] = f"the {m.noun('thing', 'animal', 'food')}"
    if "{W}" in text:
        fills["W"] = "Where" if kind == "place" else "When"
    return fills


_DEEDS = """washed/wash called/call cleaned/clean paid/pay passed/pass lost/lose found/find
    sold/sell broke/break fed/feed opened/open closed/close locked/lock moved/move
    painted/paint fixed/fix brought/bring sent/send checked/check missed/miss
    won/win booked/book returned/return"""
_DUTIES = """feed walk water clean bring paint wash carry buy cook repair open close lock fetch
    drive organise lead book pay collect check test write teach play keep move plan sort dry cut"""


def draw_fact(
    m: Maker,
    *,
    held_out: bool = False,
    like: NoteFact | None = None,
    subject: Subject | None = None,
) -> NoteFact:
    """A fact; `like` fixes relation and way of stating it, `subject` what it is about."""
    if like:
        about = subject or draw_subject(m, m.rng.choice(like.relation.subject))
        return _complete(m, like.relation, like.kind, about, like)
    known = relations(held_out=held_out)
    while True:
        relation = m.rng.choices(known, [each.weight for each in known])[0]
        if subject is None or subject.kind in relation.subject:
            about = subject or draw_subject(m, m.rng.choice(relation.subject))
            return _complete(m, relation, m.rng.choice(relation.value), about, None)


def _complete(
    m: Maker, relation: Relation, kind: str, about: Subject, like: NoteFact | None
) -> NoteFact:
    kind = "date" if kind == "animal" else kind
    fills = dict(like.fills) if like else _fills(m, relation, kind)
    value, other = _values(m, relation, kind, fills)
    says = " ".join(relation.says)
    if kind == "clock" or "{w}" in says:
        fills["w"] = other
    if kind == "when":
        fills |= {"V": _without_preposition(value), "x": _without_preposition(other)}
    if "{y}" in says:
        fills["y"] = KINDS["when" if kind == "from" else "place"](m)
    if about.kind == "numbered":
        fills["h"] = about.text.split()[0]
    fills["b"] = re.sub(r"^(the|my|our) ", "", about.text.split("'s ")[-1])
    indices = _answerable(relation)
    if like and (relation.specific or m.rng.random() < 0.6):
        index = like.index
    else:
        index = 0 if m.rng.random() < 0.35 and 0 in indices else m.rng.choice(indices)
    return NoteFact(_named_verb(m, relation, like), index, about, kind, value, other, fills)


def _values(m: Maker, relation: Relation, kind: str, fills: dict[str, str]) -> tuple[str, str]:
    """The value and another one; what the templates need beside them goes into `fills`."""
    if kind == "duty":
        verb = m.rng.choice(_DUTIES.split())
        thing = f"the {m.noun('thing', 'animal', 'food')}"
        fills |= {"verb": conjugate(verb, 1), "base": verb, "o": thing}
        return thing, thing
    if kind == "trait":
        fills["a"] = fills.get("a") or m.word("trait")
        first, second = (f"{fills['a']} {m.noun('food', 'animal', 'activity')}" for _ in range(2))
        return first, second
    if "{k}" in relation.says[0]:
        thing = m.noun("thing", "animal")
        past, base = m.rng.choice(_DEEDS.split()).split("/")
        owned = "no {k}" in relation.says[0]
        fills |= {"k": thing if owned else f"{past} the {thing}", "h": f"{base} the {thing}"}
        return fills["k"], f"{fills['k']}s"
    if kind == "state":
        first, second = m.rng.sample(m.rng.choice(STATES), 2)
        return first, second
    value, other = KINDS[kind](m), KINDS[kind](m)
    if kind == "date" and "on {v}" not in relation.says[0]:
        return f"on {value}", f"on {other}"
    return value, other


def _without_preposition(when: str) -> str:
    return when.split(" ", 1)[-1] if when.startswith(("at ", "on ")) else when


def _answerable(relation: Relation) -> list[int]:
    numbered = {int(ask.partition("@")[2].partition("!")[0]) for ask in relation.asks if "@" in ask}
    return sorted(numbered) if numbered else list(range(len(relation.says)))


def _named_verb(m: Maker, relation: Relation, like: NoteFact | None) -> Relation:
    """A relation whose verb is '?' gets one that nobody knows."""
    if like or not any("{?}" in say for say in relation.says):
        return relation
    verb = (
        new_word(m.rng) if m.rng.random() < 0.5 else m.rng.choice(words("thing")).replace(" ", "")
    )

    def put(texts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(
            re.sub(r"\{\?\}", f"{{{verb}}}", text)
            .replace(" ? ", f" {verb} ")
            .replace(" ??", f" {verb}?")
            .removesuffix(" ?")
            for text in texts
        )

    return Relation(
        relation.subject,
        relation.value,
        put(relation.says),
        put(relation.asks),
        put(relation.who),
        put(relation.sure),
        relation.weight,
    )


def near_miss(m: Maker, fact: NoteFact, *, held_out: bool = False) -> NoteFact:
    """The same relation of another subject, or the same subject in another relation."""
    if m.rng.random() < 0.6:
        return draw_fact(m, held_out=held_out, like=fact, subject=related_subject(m, fact.subject))
    for _ in range(40):
        other = draw_fact(m, held_out=held_out)
        if fact.subject.kind in other.relation.subject:
            return draw_fact(m, held_out=held_out, like=other, subject=fact.subject)
    return draw_fact(m, held_out=held_out, like=fact, subject=draw_subject(m, fact.subject.kind))
