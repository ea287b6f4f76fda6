"""Values that a note can hold: places, times, sums, codes, names and so on, drawn at random."""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Sequence

from rqchat.pocket.training.language.facts import new_word
from rqchat.pocket.training.language.words import FIRST_NAMES, SURNAMES
from rqchat.pocket.training.notes.lexicon import words

__all__ = ["ABSENT", "KINDS", "STATES", "Maker"]


class Maker:
    """Draws words and values from one random generator; `prose` are words of real texts."""

    def __init__(self, rng: random.Random, prose: Sequence[str], *, held_out: bool = False) -> None:
        self.rng = rng
        self._prose = prose
        self._held_out = held_out

    def one(self, choices: str) -> str:
        """One of several texts with `|` between them."""
        return self.rng.choice(choices.split("|"))

    def word(self, kind: str) -> str:
        """One word of a list of the lexicon.

        Every seventh word of a list of 20 or more is kept from training.
        """
        found = words(kind)
        if len(found) < 20:
            return self.rng.choice(found)
        while True:
            index = self.rng.randrange(len(found))
            if (index % 7 == 6) == self._held_out:
                return found[index]

    def odd(self, kind: str, share: float = 0.22) -> str:
        """A word of a list or, in `share` of the draws, a word of prose or an invented one."""
        pick = self.rng.random()
        if pick > share:
            return self.word(kind)
        return self.rng.choice(self._prose).lower() if pick < share / 2 else new_word(self.rng)

    def name(self) -> str:
        """A first name, or one that nobody has."""
        if self.rng.random() < 0.3:
            return new_word(self.rng).capitalize()
        return self.rng.choice(FIRST_NAMES)

    def person(self) -> str:
        """A person as a note names one, without an owner."""
        pick = self.rng.random()
        surname = self.rng.choice(SURNAMES)
        if self.rng.random() < 0.3:
            surname = new_word(self.rng).capitalize()
        if pick < 0.5:
            return self.name()
        return f"{self.word('title')} {surname}" if pick < 0.65 else f"{self.name()} {surname}"

    def number(self, low: int = 2, high: int = 9999) -> int:
        """Small numbers more often than large ones."""
        grown: float = low * (high / low) ** self.rng.random()
        return round(grown)

    def noun(self, *kinds: str) -> str:
        """A noun, half of the time with an adjective or two."""
        noun = self.odd(self.rng.choice(kinds))
        pick = self.rng.random()
        if pick < 0.5:
            return noun
        adjective = self.odd("adjective", 0.15)
        if adjective == noun:
            return noun
        if pick > 0.95:
            return f"{self.word('adjective')} {adjective} {noun}"
        return f"{adjective} {noun}"


def _clock(m: Maker) -> str:
    pick, hour = m.rng.random(), m.rng.randint(0, 23)
    minute = m.rng.choice(("00", "15", "30", "45", "10", "20", "05", f"{m.rng.randint(0, 59):02}"))
    if pick < 0.62:
        return f"{hour:02}:{minute}" if hour < 10 and pick < 0.1 else f"{hour}:{minute}"
    half = hour % 12 or 12
    if pick < 0.78:
        return m.rng.choice(
            (f"{half} {m.rng.choice(('am', 'pm'))}", f"{half}:{minute} pm", f"{half}pm")
        )
    word = m.rng.choice(
        ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
    return m.rng.choice(
        (
            word,
            f"half past {word}",
            f"quarter to {word}",
            f"quarter past {word}",
            f"{word} o'clock",
            "noon",
            "midnight",
            str(half),
        )
    )


def _date(m: Maker) -> str:
    day, month, year = m.rng.randint(1, 28), m.word("month"), m.rng.randint(1900, 2040)
    ordinal = {1: "st", 2: "nd", 3: "rd", 21: "st", 22: "nd", 23: "rd"}.get(day, "th")
    return m.rng.choice(
        (
            f"{day} {month}",
            f"{day} {month}",
            f"{day} {month} {year}",
            f"{month} {day}",
            f"{month} {day}{ordinal}",
            f"{day}{ordinal} {month}",
            f"{month} {day}, {year}",
            f"{year}-{m.rng.randint(1, 12):02}-{day:02}",
            f"the {day}{ordinal} of {month}",
            f"{day}.{m.rng.randint(1, 12)}.{year}",
            f"{day}/{m.rng.randint(1, 12)}/{year % 100:02}",
        )
    )


def _when(m: Maker) -> str:
    pick, day = m.rng.random(), m.word("day")
    part = m.rng.choice(("morning", "afternoon", "evening", "night"))
    if pick < 0.5:
        return f"at {_clock(m)}"
    if pick < 0.68:
        return m.rng.choice(
            (f"on {day}", f"on {day} {part}", f"on {day} at {_clock(m)}", f"on {day}s")
        )
    if pick < 0.86:
        return f"on {_date(m)}"
    return m.rng.choice(
        (
            f"next {day}",
            f"in {m.word('month')}",
            f"in {m.rng.randint(1100, 2040)}",
            "tomorrow",
            "today",
            f"tomorrow {part}",
            f"in {m.rng.randint(2, 40)} minutes",
            f"after {m.rng.choice(('lunch', 'school', 'work'))}",
            f"in the {part}",
            f"before {_clock(m)}",
            f"at the end of {m.word('month')}",
            "next week",
            f"in {m.word('number')} {m.rng.choice(('days', 'weeks', 'hours'))}",
        )
    )


def _place(m: Maker) -> str:
    pick = m.rng.random()
    owner = m.rng.choice(("the", "the", "the", "the", "a", f"{m.name()}'s"))
    if pick < 0.36:
        return f"in {owner} {m.noun('container')}"
    if pick < 0.5:
        return f"on {owner} {m.noun('surface')}"
    if pick < 0.62:
        preposition = m.rng.choice(
            (
                "behind",
                "under",
                "next to",
                "near",
                "beside",
                "in front of",
                "opposite",
                "above",
                "at",
            )
        )
        return f"{preposition} the {m.noun('spot', 'thing')}"
    if pick < 0.74:
        return f"{m.rng.choice(('at', 'in', 'near', 'behind'))} the {m.noun('shop')}"
    if pick < 0.88:
        return f"in {_city(m)}"
    return m.rng.choice(
        (
            f"in room {m.rng.randint(1, 450)}",
            f"at {_street(m)}",
            f"on level {m.rng.randint(1, 9)}",
            f"in {m.word('street')} Street",
            f"on the {m.word('number')}th floor",
            f"at {m.name()}'s",
            f"on page {m.rng.randint(2, 400)}",
            f"at platform {m.rng.randint(1, 20)}",
            f"in row {m.rng.randint(1, 60)}",
        )
    )


def _city(m: Maker) -> str:
    return m.word("city") if m.rng.random() < 0.6 else new_word(m.rng).capitalize()


def _start(m: Maker) -> str:
    pier, gate = m.rng.randint(1, 9), m.rng.choice("ABCD") + str(m.rng.randint(1, 40))
    platform = f"platform {m.rng.randint(1, 30)}"
    return m.rng.choice(
        (platform, f"gate {gate}", f"the {m.noun('shop')}", _city(m), f"pier {pier}")
    )


def _street(m: Maker) -> str:
    kind = m.rng.choice(("Street", "Road", "Lane", "Avenue", "Square", "Way", "Gardens", "Hill"))
    name = m.word("street") if m.rng.random() < 0.7 else new_word(m.rng).capitalize()
    number = m.rng.randint(1, 240)
    return f"{number} {name} {kind}" if m.rng.random() < 0.7 else f"{name} {kind} {number}"


def _amount(m: Maker) -> str:
    number = m.number()
    text = m.rng.choice(
        (str(number), str(number), f"{number:,}", f"{m.number(1, 99)}.{m.rng.randint(0, 99):02}")
    )
    if m.rng.random() < 0.3:
        return m.rng.choice("$£€") + text
    return f"{text} {m.one('euros|dollars|pounds|euros|francs|cents|crowns|yen')}"


def _quantity(units: str) -> Callable[[Maker], str]:
    def make(m: Maker) -> str:
        number = str(m.number(2, 900))
        if m.rng.random() < 0.25:
            number = f"{m.rng.randint(0, 60)}.{m.rng.randint(1, 9)}"
        elif m.rng.random() < 0.15:
            number = m.word("number")
        return f"{number} {m.rng.choice(units.split())}"

    return make


def _span(m: Maker) -> str:
    pick = m.rng.random()
    if pick < 0.8:
        return _quantity("minutes minutes hours hours days weeks months years seconds")(m)
    return m.rng.choice(
        (
            "half an hour",
            "an hour",
            "a week",
            "one and a half hours",
            "all day",
            "about two hours",
            "a fortnight",
        )
    )


def _often(m: Maker) -> str:
    return m.rng.choice(
        (
            f"every {m.number(2, 90)} minutes",
            f"every {m.word('day')}",
            f"every {m.word('number')} weeks",
            f"every second {m.word('day')}",
            f"every {m.rng.choice(('hour', 'day', 'week', 'month', 'morning', 'summer', 'year'))}",
            f"{m.one('once|twice|three times|four times')} a {m.one('day|week|month|year')}",
            f"on {m.word('day')}s",
            f"every {m.rng.randint(2, 12)} hours",
        )
    )


def _letters(m: Maker, alphabet: str, low: int, high: int) -> str:
    return "".join(m.rng.choices(alphabet, k=m.rng.randint(low, high)))


def code(m: Maker) -> str:
    """A string to be copied to the letter, of 2 to 40 characters."""
    pick, upper, digits = m.rng.random(), string.ascii_uppercase, string.digits
    if pick < 0.3:
        return _letters(m, digits, 3, 9)
    if pick < 0.4:
        return _letters(m, upper + digits, 4, 14)
    if pick < 0.5:
        parts = (
            _letters(m, m.rng.choice((upper, digits, upper + digits)), 1, 5)
            for _ in range(m.rng.randint(2, 5))
        )
        return m.rng.choice("--- .:/").join(parts)
    if pick < 0.62:
        return m.rng.choice("--_.").join(
            [m.odd("thing", 0.5).replace(" ", ""), m.odd("animal", 0.4), str(m.number())][
                m.rng.randint(0, 1) :
            ]
        )
    if pick < 0.72:
        return _letters(m, string.ascii_letters + digits, 6, m.rng.choice((10, 16, 24, 40)))
    if pick < 0.84:
        return (
            _letters(
                m,
                string.ascii_letters + digits + "!#$%&()*+,-./:;=?@[]^_{}~",
                3,
                m.rng.choice((8, 12, 20, 36)),
            ).strip(".,:;?!")
            or "x1"
        )
    if pick < 0.88:
        return _letters(m, m.rng.choice(("01", "20", "ab", "-=", "7", "xX", "#*")), 2, 14)
    if pick < 0.94:
        return m.rng.choice(
            (
                f"{_letters(m, digits, 4, 4)}#",
                f"#{_letters(m, digits + 'abcdef', 6, 6)}",
                f"&#x{_letters(m, digits + 'abcdef', 2, 4)};{m.number()}",
                f"v{m.rng.randint(0, 9)}.{m.rng.randint(0, 20)}.{m.rng.randint(0, 9)}",
                f"{m.rng.randint(1, 255)}.{m.rng.randint(0, 255)}.0.{m.rng.randint(1, 9)}",
            )
        )
    return "".join(
        m.rng.choice((new_word(m.rng).capitalize(), str(m.number()), m.rng.choice("!?-_+")))
        for _ in range(m.rng.randint(2, 4))
    )


def _phone(m: Maker) -> str:
    groups = [_letters(m, string.digits, 2, 5) for _ in range(m.rng.randint(2, 4))]
    start = m.rng.choice(("", "", "0", "+49 ", "+44 ", "00"))
    return start + m.rng.choice((" ", " ", "-", "")).join(groups)


def _email(m: Maker) -> str:
    left = m.rng.choice(
        (
            m.name().lower(),
            f"{m.name()[0].lower()}.{new_word(m.rng)}",
            f"{new_word(m.rng)}{m.number()}",
            m.odd("job").replace(" ", "."),
        )
    )
    host = m.odd("animal", 0.7).replace(" ", "")
    return f"{left}@{host}.{m.one('com|org|net|example|test|eu|de')}"


def _url(m: Maker) -> str:
    host = f"{m.one('|www.|docs.')}{new_word(m.rng)}.{m.one('com|org|net|example')}"
    path = "/".join(
        m.rng.choice((new_word(m.rng), str(m.number()), m.word("animal").replace(" ", "-")))
        for _ in range(m.rng.randint(0, 3))
    )
    return (
        f"{m.rng.choice(('https://', 'https://', 'http://', ''))}{host}{'/' + path if path else ''}"
    )


def _listed(items: Sequence[str]) -> str:
    return f"{', '.join(items[:-1])} and {items[-1]}"


def _object(m: Maker) -> str:
    article = m.rng.choice(("a", "a", "the", f"{m.number(2, 30)}", "two", "three"))
    noun = m.noun("thing", "animal", "thing")
    if article not in ("a", "the") and noun[-1] != "s":
        noun += "es" if noun.endswith(("x", "ch", "sh")) else "s"
    if article == "a" and noun[0] in "aeiou":
        article = "an"
    return f"{article} {noun}"


def _phrase(m: Maker) -> str:
    pick = m.rng.random()
    if pick < 0.3:
        return m.noun("food", "thing", "colour", "goods", "animal", "city")
    if pick < 0.45:
        return _listed([m.odd("food"), m.odd("goods")])
    if pick < 0.7:
        return " ".join(m.odd("adjective", 0.8) for _ in range(m.rng.randint(1, 4)))
    return (
        new_word(m.rng).capitalize()
        if pick < 0.85
        else '"' + m.odd("adjective", 0.5) + " " + m.odd("thing", 0.5) + '"'
    )


def _any(m: Maker) -> str:
    kinds = (
        "code",
        "code",
        "code",
        "phone",
        "email",
        "url",
        "person",
        "phrase",
        "phrase",
        "colour",
        "amount",
        "clock",
        "date",
        "street",
        "count",
        "town",
    )
    return KINDS[m.rng.choice(kinds)](m)


# Words that shut each other out, for questions that are answered with yes or no.
STATES: tuple[tuple[str, ...], ...] = tuple(
    tuple(pair.replace("_", " ").split("/"))
    for pair in """open/closed locked/unlocked full/empty new/old clean/dirty ready/unfinished
        broken/working sold/available ill/healthy asleep/awake married/single happy/sad
        cheap/expensive wet/dry early/late on_time/delayed free/occupied free/booked_out
        cancelled/confirmed hot/cold warm/cold big/small heavy/light long/short fast/slow
        easy/difficult safe/dangerous vegetarian/vegan public/private alive/dead rich/poor
        at_home/at_work upstairs/downstairs outside/inside paid/unpaid out_of_order/in_use
        round/square quiet/loud tired/rested here/away sharp/blunt sweet/sour raw/cooked
        switched_on/switched_off finished/half_done optional/compulsory""".split()
)

KINDS: dict[str, Callable[[Maker], str]] = {
    "any": _any,
    "place": _place,
    "city": lambda m: f"in {_city(m)}",
    "town": _city,
    "to": lambda m: m.rng.choice((f"to {_city(m)}", f"to the {m.noun('shop')}", f"to {m.name()}")),
    "from": lambda m: f"from {_start(m)}",
    "when": _when,
    "clock": _clock,
    "until": _clock,
    "date": _date,
    "year": lambda m: f"in {m.rng.randint(1100, 2040)}",
    "amount": _amount,
    "weight": _quantity("kg kg kilograms grams g tonnes pounds kilos"),
    "length": _quantity("metres metres cm km m feet kilometres inches miles"),
    "volume": _quantity("litres litres ml l gallons"),
    "heat": _quantity("degrees degrees °C"),
    "speed": _quantity("km/h mph"),
    "age": lambda m: str(m.rng.randint(1, 99)),
    "count": lambda m: str(m.number(2, 900)) if m.rng.random() < 0.75 else m.word("number"),
    "span": _span,
    "often": _often,
    "code": code,
    "phone": _phone,
    "email": _email,
    "url": _url,
    "person": Maker.person,
    "colour": lambda m: m.odd("colour"),
    "material": lambda m: m.odd("material"),
    "job": lambda m: ("an " if (job := m.odd("job"))[0] in "aeiou" else "a ") + job,
    "activity": lambda m: m.odd("activity"),
    "language": lambda m: (
        m.odd("language")
        if m.rng.random() < 0.7
        else _listed([m.word("language"), m.odd("language")])
    ),
    "food": lambda m: (
        m.noun("food") if m.rng.random() < 0.7 else _listed([m.odd("food"), m.odd("food")])
    ),
    "list": lambda m: _listed(
        [m.odd("food" if m.rng.random() < 0.5 else "goods") for _ in range(m.rng.randint(2, 5))]
    ),
    "people": lambda m: _listed([m.name() for _ in range(m.rng.randint(2, 5))]),
    "object": _object,
    "phrase": _phrase,
    "title": lambda m: " ".join(
        m.odd("adjective", 0.6).capitalize() for _ in range(m.rng.randint(1, 3))
    ),
    "street": _street,
    "state": lambda m: m.rng.choice(m.rng.choice(STATES)),
    "many": lambda m: (
        m.one("dogs|cats|children|bikes|balls|phones|visitors|cameras")
        if m.rng.random() < 0.4
        else m.odd("goods", 0.1)
    ),
    "definite": lambda m: f"the {m.odd('container' if m.rng.random() < 0.5 else 'thing')}",
    "reason": lambda m: f"because of {m.odd('reason', 0.1)}",
}

# What an answer says in the place of a value that the text does not hold.
ABSENT = {
    "place": "in a place that is not in the text",
    "city": "in a place that is not in the text",
    "to": "to a place that is not in the text",
    "from": "from a place that is not in the text",
    "when": "at a time that is not in the text",
    "until": "a time that is not in the text",
    "date": "on a date that is not in the text",
    "year": "in a year that is not in the text",
    "amount": "a sum that is not in the text",
    "span": "for a time that is not in the text",
    "often": "at times that are not in the text",
    "person": "somebody who is not in the text",
    "count": "a number that is not in the text",
    "reason": "for a reason that is not in the text",
}
