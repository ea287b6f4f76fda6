"""What a note speaks of: things, events, people, attributes, with the verb forms they take."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from rqchat.pocket.training.language.facts import new_word
from rqchat.pocket.training.notes.values import Maker

__all__ = ["Subject", "conjugate", "draw_subject", "for_answer", "related_subject"]

_LOCKABLE = (
    "door|gate|safe|locker|garage|phone|tablet|laptop|suitcase|wifi|bike lock|alarm|printer|shed"
    "|box|account|router|computer|front door|cellar|cupboard"
)
_DOCUMENTS = (
    "report|essay|homework|rent|bill|form|contract|passport|ticket|invoice|application|visa"
    "|warranty|subscription|licence|proposal|budget|book|letter|song|poem|story|article|tax return"
)
_NUMBERED = "room|gate|channel|line|table|shelf|box|button|track|key|drawer|group|locker|day|page"
_FEASTS = "birthday|birthday|anniversary|name day"
_IRREGULAR = {"have": "has", "do": "does", "go": "goes", "be": "is"}
_SPECIAL = {
    "is": ("am", "is", "are"),
    "was": ("was", "was", "were"),
    "has": ("have", "has", "have"),
    "do": ("do", "does", "do"),
}


@dataclass(frozen=True, slots=True)
class Subject:
    """`text` as it stands inside a sentence; `person` is 0 for 'I', 1 for one other, 2 for many."""

    kind: str
    text: str
    person: int = 1


def conjugate(verb: str, person: int) -> str:
    """A verb of a template in the present tense."""
    small = verb.lower()
    if small in _SPECIAL:
        form = _SPECIAL[small][person]
    elif person != 1:
        form = small
    elif small in _IRREGULAR:
        form = _IRREGULAR[small]
    elif re.search(r"(s|x|z|ch|sh)$", small):
        form = small + "es"
    else:
        form = small[:-1] + "ies" if re.search(r"[^aeiou]y$", small) else small + "s"
    return form.capitalize() if verb[0].isupper() else form


_SWAPPED = {
    "I": "you",
    "me": "you",
    "my": "your",
    "we": "you",
    "us": "you",
    "our": "your",
    "am": "are",
    "My": "Your",
    "Our": "Your",
    "We": "You",
    "mine": "yours",
}


def for_answer(text: str) -> str:
    """What the asker calls 'my' is 'your' in an answer."""
    return re.sub(r"\b(I|me|my|we|us|our|am|My|Our|We|mine)\b", lambda m: _SWAPPED[m[0]], text)


def _owner(m: Maker) -> str:
    pick = m.rng.random()
    if pick < 0.45:
        return "the"
    if pick < 0.72:
        return m.rng.choice(("my", "our"))
    return f"{m.name()}'s" if pick < 0.9 else f"{_relative(m)}'s"


def _relative(m: Maker) -> str:
    owner = m.rng.choice(("my", "our", "my", f"{m.name()}'s", "the"))
    return f"{owner} {m.odd('relative', 0.05)}"


def _third(m: Maker) -> str:
    pick = m.rng.random()
    if pick < 0.6:
        return m.person()
    return (
        _relative(m)
        if pick < 0.85
        else f"{m.rng.choice(('the', 'our', 'the new'))} {m.odd('role')}"
    )


def _thing(m: Maker) -> str:
    pick = m.rng.random()
    if pick < 0.82:
        return f"{_owner(m)} {m.noun('thing', 'thing', 'thing', 'food', 'goods')}"
    if pick < 0.9:
        other = m.rng.choice((m.name(), "the " + m.odd("thing")))
        return f"the {m.odd('thing')} {m.one('of|for|from')} {other}"
    return f"{m.odd('thing')} {m.number(2, 99)}"


def _event(m: Maker) -> str:
    pick = m.rng.random()
    if pick < 0.7:
        return f"{_owner(m)} {m.noun('event')}"
    if pick < 0.85:
        return f"the {m.odd('event')} with {m.rng.choice((m.name(), 'the ' + m.odd('role')))}"
    other = m.rng.choice((m.odd("city"), m.odd("activity")))
    return f"the {m.odd('event')} {m.one('in|about|for')} {other}"


def _vehicle(m: Maker) -> str:
    pick = m.rng.random()
    if pick < 0.4:
        return f"the {m.odd('vehicle')} {m.one('to|from|for')} {m.odd('city').capitalize()}"
    if pick < 0.65:
        return (
            f"{m.odd('vehicle')} {m.rng.choice((str(m.number(2, 900)), m.rng.choice('ABCDEFG')))}"
        )
    return f"{_owner(m)} {m.noun('vehicle')}"


def _attribute_name(m: Maker) -> str:
    return (
        m.odd("attribute", 0.15)
        if m.rng.random() < 0.85
        else f"{m.odd('thing')} {m.odd('attribute', 0.1)}"
    )


def _genitive(m: Maker) -> str:
    return m.rng.choice(("my ", "our ", f"{m.name()}'s ", f"{_relative(m)}'s "))


def _attribute(m: Maker) -> str:
    name, pick = _attribute_name(m), m.rng.random()
    if pick < 0.3:
        return f"the {name}"
    if pick < 0.5:
        return _genitive(m) + name
    whole = m.rng.choice(
        (
            f"the {m.noun('thing', 'shop', 'event')}",
            f"{_owner(m)} {m.noun('thing', 'animal')}",
            m.person(),
            m.odd("city").capitalize(),
        )
    )
    if pick < 0.75:
        return f"the {name} {m.rng.choice(('of', 'of', 'for', 'for', 'at', 'in'))} {whole}"
    return f"{whole}'s {name}"


def _lockable(m: Maker) -> str:
    return _named(m, _LOCKABLE)


def _named(m: Maker, nouns: str) -> str:
    adjective = m.rng.choice(("", m.odd("adjective", 0.15) + " "))
    return f"{_owner(m)} {adjective}{m.one(nouns)}"


def _role(m: Maker) -> str:
    role = m.odd("role", 0.08)
    whole = m.rng.choice(
        (
            f"the {m.noun('thing', 'shop', 'event', 'vehicle')}",
            new_word(m.rng).capitalize(),
            f"class {m.number(1, 13)}{m.rng.choice('abc')}",
        )
    )
    return m.rng.choice(
        (
            _genitive(m) + role,
            f"the {role} of {whole}",
            f"{m.rng.choice(('my', 'our', 'the'))} {m.word('adjective')} {role}",
        )
    )


_MAKERS: dict[str, Callable[[Maker], str]] = {
    "person": _third,
    "person-third": _third,
    "thing": _thing,
    "event": _event,
    "vehicle": _vehicle,
    "shop": lambda m: f"{m.rng.choice(('the', 'the', 'the', 'our'))} {m.noun('shop')}",
    "animal": lambda m: f"{_owner(m)} {m.noun('animal')}",
    "building": lambda m: _named(m, "tower|bridge|wall|fence|house|tree|church|castle|tunnel|pole"),
    "road": lambda m: _named(m, "road|path|street|door|tunnel|bridge|stairs|track"),
    "role": _role,
    "birthday": lambda m: (
        f"{m.rng.choice((m.name(), _relative(m), m.person()))}'s {m.one(_FEASTS)}"
    ),
    "document": lambda m: _named(m, _DOCUMENTS),
    "attribute": _attribute,
    "lockable": _lockable,
    "numbered": lambda m: f"{m.one(_NUMBERED)} {m.rng.choice((m.number(1, 60), m.one('A|B|C|D')))}",
    "team": lambda m: (
        f"the {m.odd('colour')} {m.rng.choice(('team', 'side', 'group'))}"
        if m.rng.random() < 0.6
        else m.odd("city").capitalize()
    ),
    "food-thing": lambda m: f"the {m.noun('food')}",
    "colour-thing": lambda m: (
        f"{m.rng.choice((m.name(), _relative(m)))}'s {m.one('hair|eyes|house|coat|car|room')}"
    ),
    "shop-thing": lambda m: (
        f"a {m.odd('thing')}"
        if m.rng.random() < 0.4
        else f"the ticket to {m.odd('city').capitalize()}"
    ),
}


def draw_subject(m: Maker, kind: str) -> Subject:
    """A subject of one of the kinds of `relations.py`."""
    if kind == "person":
        pick = m.rng.random()
        if pick < 0.12:
            return Subject(kind, "I", 0) if pick < 0.06 else Subject(kind, "we", 2)
        if pick < 0.16:
            return Subject(kind, f"{m.name()} and {m.name()}", 2)
    if kind == "we":
        return Subject(kind, *m.rng.choice((("we", 2), ("we", 2), ("I", 0), (m.name(), 1))))
    if kind == "place-any":
        kind = m.rng.choice(("shop", "person-third", "animal", "event"))
    text = _MAKERS[kind](m)
    return Subject(kind, text, _person(kind, text))


def _person(kind: str, text: str) -> int:
    """2 where the last word looks like a plural."""
    looks = text.endswith("s") and not text.endswith(("ss", "us", "'s"))
    looks = looks and text.split()[-1][0].islower()  # not 'the ticket to Paris'
    return 2 if looks and kind not in ("person", "person-third") else 1


def related_subject(m: Maker, subject: Subject) -> Subject:
    """A near miss: one word of the subject is another one, or the owner is."""
    parts = subject.text.split()
    if subject.person != 1 or len(parts) == 1 or m.rng.random() < 0.25:
        return draw_subject(m, subject.kind)
    place = m.rng.randrange(len(parts))
    if parts[place] in ("of", "for", "to", "from", "at", "in", "with", "about"):
        place = len(parts) - 1
    if place == 0 and parts[0] in ("the", "my", "our"):
        parts[0] = f"{m.name()}'s"
    elif parts[place].endswith("'s"):
        parts[place] = f"{m.name()}'s"
    elif parts[place][0].isupper():
        parts[place] = m.name()
    elif place == len(parts) - 1:
        noun = draw_subject(m, subject.kind).text.split()[-1]
        parts[place] = noun if noun[0].islower() else m.odd("thing")
    else:
        parts[place] = m.word("adjective")
    text = " ".join(parts)
    return Subject(subject.kind, text, _person(subject.kind, text))
