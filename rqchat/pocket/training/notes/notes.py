"""Conversations about everyday notes: the note, questions, follow-ups, and what is not there."""

from __future__ import annotations

import random
from collections.abc import Sequence

from rqchat.pocket.training.language.dialogues import Prose, Turn, hide_sentences
from rqchat.pocket.training.language.smalltalk import sample_exchange, unknown_answer
from rqchat.pocket.training.notes.note_facts import Asked, NoteFact, capital, draw_fact, near_miss
from rqchat.pocket.training.notes.note_tables import draw_table
from rqchat.pocket.training.notes.values import Maker

__all__ = ["document_of_notes", "note_beside_picture", "note_conversation", "unknown_conversation"]

_GROUPS = (
    {"place", "city", "from", "to", "street"},
    {"when", "date", "year", "clock", "until", "often", "span", "animal"},
    {"person", "title"},
    {"any"},
    {"job"},
)
_FILLERS = """Have a nice day!|See you soon.|Please do not forget.|Thanks!|Do not worry.|Hi all,
Dear neighbours,|Hello,|Hi {n},|Best wishes, {n}|Note to self:|Reminder:|It may rain.
Everything else is fine.|Call me if anything is unclear.|{n} says hello.|As you know,|Love, {n}
More later.|We had a lovely time.|Take care!|I will write again tomorrow.|FYI:|Update:|Good luck!
Let me know what you think.|Nothing else is new.|It was a long day.|The weather was fine.
Cheers, {n}|I hope you are well.|Sorry for the late reply.|As discussed,|Quick update:
Hope this helps.
By the way, it snowed again.|That is all for now.|Sunny again today!|We will see.|Please reply."""
_OPENINGS = """By the way, |Remember: |NB: |Also, |Please note that |It seems that |I think |So |
Do not forget: |Good news: |{n} says that |I heard that |Just so you know: """


def _same_group(first: NoteFact, second: NoteFact) -> bool:
    return any(first.kind in group and second.kind in group for group in _GROUPS)


def _clashes(fact: NoteFact, others: Sequence[NoteFact]) -> bool:
    """Whether a question for `fact` could mean one of `others` as well."""
    for other in others:
        if fact.subject.text.lower() != other.subject.text.lower():
            continue
        if (
            fact.key == other.key
            or fact.relation.says[0] == other.relation.says[0]
            and not fact.relation.specific
        ):
            return True
        specific = fact.relation.specific and other.relation.specific
        if _same_group(fact, other) and not specific:
            return True
    return False


def _facts(m: Maker, count: int, held_out: bool) -> list[NoteFact]:
    facts = [draw_fact(m, held_out=held_out)]
    while len(facts) < count:
        near = m.rng.random() < 0.6
        fact = (
            near_miss(m, m.rng.choice(facts), held_out=held_out)
            if near
            else draw_fact(m, held_out=held_out)
        )
        if not _clashes(fact, facts):
            facts.append(fact)
    return facts if m.rng.random() < 0.5 else m.rng.sample(facts, count)


def _sentences(m: Maker, facts: Sequence[NoteFact]) -> list[str]:
    """The statements, some of them drawn together as people do."""
    said: list[str] = []
    last: NoteFact | None = None
    for fact in facts:
        text, short = fact.statement, None
        plain = fact.relation.says[fact.index]
        if last and m.rng.random() < 0.5 and said and said[-1][-1].isalnum():
            before = last.relation.says[last.index]
            if before == plain and plain.startswith("{s} ") and plain.endswith("{v}"):
                joint = m.rng.choice((" and", ",", ", and", ";"))
                short = f"{joint} {fact.subject.text} {fact.value}"
            elif (
                last.subject == fact.subject
                and before.startswith("{s} ")
                and plain.startswith("{s} ")
            ):
                rest = text[len(fact.subject.text) :]
                pronoun = (
                    "It"
                    if fact.subject.kind
                    in ("thing", "event", "shop", "vehicle", "building", "attribute")
                    else m.rng.choice(("He", "She"))
                )
                if fact.subject.person == 1 and m.rng.random() < 0.5:
                    said.append(pronoun + rest)
                    last = fact
                    continue
                short = f"{m.rng.choice((' and', ', and'))}{rest}"
        if short:
            said[-1] += short
        else:
            said.append(text)
        last = fact
    return said


def _note(m: Maker, facts: Sequence[NoteFact], prose: Prose) -> str:
    sentences = _sentences(m, facts)
    pick = m.rng.random()
    if pick < 0.22 and len(sentences) > 1:
        mark = m.rng.choice(("", "", "- ", "* ", "."))
        return "\n".join(f"{s}." if mark == "." else mark + s for s in sentences)
    parts = []
    for sentence in sentences:
        if m.rng.random() < 0.12:
            parts.append(m.one(_FILLERS.replace("\n", "|")).format(n=m.name()))
        elif m.rng.random() < 0.04:
            parts.append(prose.passage(m.rng, 60).split("\n")[0][:150].strip() + ".")
        elif m.rng.random() < 0.05 and not sentence.startswith(("I ", "My", "Our", "We")):
            sentence = m.one(_OPENINGS.replace("\n", "")).format(n=m.name()) + sentence
        parts.append(sentence + m.rng.choice((".", ".", ".", ".", ".", "!", ".")))
    if m.rng.random() < 0.1:
        parts.append(m.one(_FILLERS.replace("\n", "|")).format(n=m.name()))
    text = m.rng.choice((" ", " ", " ", "\n")).join(parts)
    pick = m.rng.random()
    if pick < 0.06:
        text = text.rstrip(".!")
    return text


def _other(m: Maker, facts: Sequence[NoteFact], held_out: bool) -> NoteFact:
    """A fact that the note does not hold, and close to one that it does."""
    while True:
        near = m.rng.random() < 0.75
        fact = (
            near_miss(m, m.rng.choice(facts), held_out=held_out)
            if near
            else draw_fact(m, held_out=held_out)
        )
        if not _clashes(fact, facts) and not any(_covers(fact, other) for other in facts):
            return fact


def _covers(fact: NoteFact, other: NoteFact) -> bool:
    """Whether the note speaks of what is asked in other words: same subject, same kind of value."""
    same = fact.subject.text.lower() == other.subject.text.lower()
    return same and (
        _same_group(fact, other) and fact.relation.says[0][:12] == other.relation.says[0][:12]
    )


def _follow_up(m: Maker, last: NoteFact, facts: Sequence[NoteFact], held_out: bool) -> Turn | None:
    if "{w}" in last.relation.says[last.index] or "{o}" in " ".join(last.relation.says):
        return None
    same = [
        f
        for f in facts
        if f is not last
        and f.relation.says == last.relation.says
        and f.kind == last.kind
        and (f.index == last.index or not f.relation.specific)
    ]
    form = m.rng.choice(
        (
            "And {}?",
            "And {}?",
            "and {}?",
            "What about {}?",
            "How about {}?",
            "No, {}.",
            "No, I mean {}.",
            "Sorry, I meant {}.",
            "{}?",
            "And what about {}?",
            "and {}",
        )
    )
    if same and m.rng.random() < 0.75:
        fact = m.rng.choice(same)
        return Turn(
            capital(form.format(fact.subject.text))
            if form[0] == "{"
            else form.format(fact.subject.text),
            fact.answer,
        )
    fact = draw_fact(m, held_out=held_out, like=last, subject=near_miss(m, last).subject)
    if (
        fact.subject.kind not in last.relation.subject
        or _clashes(fact, facts)
        or fact.subject.person != 1
    ):
        return None
    return Turn(form.format(fact.subject.text), fact.asked(m).absent)


def _turn(m: Maker, fact: NoteFact, facts: Sequence[NoteFact]) -> Asked:
    pick = m.rng.random()
    made = None
    # Who has a value can be asked only where one alone has it.
    if pick < 0.17 and sum(f.value == fact.value for f in facts) == 1:
        made = fact.asked_who(m)
    elif pick < 0.27:
        made = fact.asked_sure(m)
    return made or fact.asked(m)


def _turns(m: Maker, facts: Sequence[NoteFact], count: int, held_out: bool) -> list[Turn]:
    turns: list[Turn] = []
    last: NoteFact | None = None
    unasked: list[NoteFact] = []
    while len(turns) < count:
        unasked = unasked or m.rng.sample(list(facts), len(facts))
        pick = m.rng.random()
        follow = _follow_up(m, last, facts, held_out) if last and m.rng.random() < 0.3 else None
        if follow:
            turns.append(follow)
            last = None
        elif pick < 0.24:
            fact = _other(m, facts, held_out)
            asked = (fact.asked_who(m) if m.rng.random() < 0.2 else None) or fact.asked(m)
            turns.append(Turn(asked.question, asked.absent))
            last = None
        elif pick < 0.3 and len(facts) > 1:
            first, second = (fact.asked(m) for fact in m.rng.sample(list(facts), 2))
            joint = m.rng.choice((", and ", " and ", "? And "))
            question = (
                first.question.rstrip("?.")
                + joint
                + second.question[0].lower()
                + second.question[1:]
            )
            turns.append(Turn(question, f"{first.answer} {second.answer}"))
        else:
            last = unasked.pop()
            asked = _turn(m, last, facts)
            turns.append(Turn(asked.question, asked.answer))
    return turns


_READ = "I have read it. What would you like to know?"
_NAMES = (
    "stdin",
    "stdin",
    "stdin",
    "notes.txt",
    "note.md",
    "todo.txt",
    "mail.txt",
    "clipboard",
    "a.txt",
    "info.txt",
    "config.toml",
)


def _placed(m: Maker, note: str, turns: list[Turn]) -> list[Turn]:
    """The note where people put it: as a document, before the question, or in a turn of its own."""
    pick, first = m.rng.random(), turns[0]
    if pick < 0.5:
        text = f'<document name="{m.rng.choice(_NAMES)}">\n{note}\n</document>\n\n{first.question}'
    elif pick < 0.86:
        text = note + m.rng.choice(("\n\n", "\n", " ", " ")) + first.question
        if note[-1] not in ".!?:" and text[len(note)] == " ":
            text = f"{note}. {first.question}"
    else:
        return [Turn(note, _READ), *turns]
    return [Turn(text, first.answer), *turns[1:]]


def note_conversation(
    rng: random.Random, prose: Prose, parameters: str, *, turns: int, held_out: bool = False
) -> list[Turn]:
    """A note with `turns` questions, the note inside the first turn.

    `held_out` draws words and relations that training never sees.
    """
    m = Maker(rng, prose.vocabulary, held_out=held_out)
    if rng.random() < 0.2:
        note, asked, absent = draw_table(m)
        rng.shuffle(asked)
        chosen = [Turn(a.question, a.answer) for a in (asked * turns)[:turns]]
        for index in range(turns):
            if absent and rng.random() < 0.2:
                other = rng.choice(absent)
                chosen[index] = Turn(other.question, other.absent or other.answer)
    else:
        facts = _facts(m, rng.choices((1, 2, 3, 4, 5, 6), (4, 4, 4, 3, 2, 1))[0], held_out)
        note = _note(m, facts, prose)
        chosen = _turns(m, facts, turns, held_out)
    if rng.random() < 0.06:
        talk = sample_exchange(rng, prose.vocabulary, parameters, with_text=True)
        chosen.insert(rng.randint(1, len(chosen)), Turn(talk.question, talk.answer))
    if rng.random() < 0.04:
        note = note.lower()
        chosen = [Turn(turn.question, capital(turn.answer.lower())) for turn in chosen]
    return _placed(m, note, chosen)


def document_of_notes(
    rng: random.Random, prose: Prose, characters: int, count: int, turns: int
) -> tuple[str, list[Turn]]:
    """Prose of about `characters` with `count` facts of notes in it, and questions about them."""
    m = Maker(rng, prose.vocabulary)
    facts = _facts(m, count, held_out=False)
    document = hide_sentences(
        rng, prose.passage(rng, characters), [f"{x}." for x in _sentences(m, facts)]
    )
    return document, _turns(m, facts, turns, held_out=False)


def note_beside_picture(
    rng: random.Random, prose: Prose, image: str, pairs: Sequence[tuple[str, str]]
) -> list[Turn]:
    """A note and a picture in one message; `pairs` are questions and answers about the picture."""
    m = Maker(rng, prose.vocabulary)
    facts = _facts(m, rng.choice((1, 2, 3)), held_out=False)
    turns = _turns(m, facts, rng.choice((1, 2)), held_out=False)
    turns += [Turn(*rng.choice(pairs)) for _ in range(rng.choice((1, 2)))]
    rng.shuffle(turns)
    text = f'<document name="{rng.choice(_NAMES)}">\n{_note(m, facts, prose)}\n</document>\n\n'
    first = turns[0]
    return [Turn(text + image + first.question, first.answer), *turns[1:]]


def unknown_conversation(rng: random.Random, prose: Prose) -> list[Turn]:
    """A question for a fact where there is no text at all."""
    m = Maker(rng, prose.vocabulary)
    return [
        Turn(draw_fact(m).asked(m).question, unknown_answer()) for _ in range(rng.choice((1, 1, 2)))
    ]
