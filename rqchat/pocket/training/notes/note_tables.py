"""Notes that are no sentences: settings, code, tables, price lists, plans and shopping lists."""

from __future__ import annotations

import json
from collections.abc import Callable

from rqchat.pocket.training.language.facts import new_word
from rqchat.pocket.training.notes.lexicon import words
from rqchat.pocket.training.notes.note_facts import Asked, capital
from rqchat.pocket.training.notes.values import KINDS, Maker

__all__ = ["draw_table"]

_KEYS = """timeout retries host port user password path level threads workers size limit mode debug
    name version theme language region color width height depth speed rate seed batch_size log_level
    max_users min_length cache_dir api_key base_url db_name queue_size page_size num_layers editor
    shell home lang verbose encoding delay interval backend format output input title author branch
    python node image replicas memory cpu bucket prefix suffix owner group""".split()
_COLUMNS = {
    "age": "age",
    "city": "town",
    "price": "amount",
    "stock": "count",
    "colour": "colour",
    "phone": "phone",
    "job": "job",
    "weight": "weight",
    "code": "code",
    "score": "count",
    "team": "town",
    "room": "count",
    "email": "email",
    "points": "count",
    "year": "count",
}


def _scalar(m: Maker) -> str:
    pick = m.rng.random()
    if pick < 0.5:
        return str(m.number(1, 9000))
    if pick < 0.6:
        return m.rng.choice(("true", "false", "on", "off", "yes", "none", "0.5", "1e-4", "0"))
    if pick < 0.8:
        return m.odd("thing", 0.7).replace(" ", m.rng.choice("-_"))
    kind = m.rng.choice(("code", "url", "email", "colour"))
    return KINDS[kind](m).replace('"', "").replace("'", "")


def _keys(m: Maker, count: int) -> list[str]:
    keys: dict[str, None] = {}
    while len(keys) < count:
        key = m.rng.choice(_KEYS) if m.rng.random() < 0.75 else new_word(m.rng)
        if m.rng.random() < 0.2 and "_" not in key:
            key += "_" + m.rng.choice(_KEYS).split("_")[0]
        keys[key] = None
    return list(keys)


def _about(m: Maker, key: str, value: str) -> Asked:
    said = m.rng.choice((key, f"the {key}", f"the {key.replace('_', ' ')}", f"the value of {key}"))
    form = m.rng.choice(
        (
            "What is {}?",
            "What is {}?",
            "What is {} set to?",
            "Which value does {} have?",
            "{}?",
            "What's {}?",
            "what is {}",
        )
    )
    if "value of" in said:
        form = "What is {}?"
    return Asked(
        form.format(said), f"{capital(said)} is {value}.", f"{capital(said)} is not in the text."
    )


def _settings(m: Maker) -> tuple[str, list[Asked], list[Asked]]:
    keys = _keys(m, m.rng.randint(2, 8))
    values = [_scalar(m) for _ in keys]
    absent = keys.pop()
    style = m.rng.randrange(9)
    if style == 6:
        text = json.dumps(
            {k: int(v) if v.isdigit() else v for k, v in zip(keys, values, strict=False)},
            indent=m.rng.choice((None, 2)),
        )
    elif style == 7:
        text = f"{new_word(m.rng)}:\n" + "\n".join(
            f"  {k}: {v}" for k, v in zip(keys, values, strict=False)
        )
    elif style == 8:
        name = m.rng.choice(_KEYS) + "_" + new_word(m.rng)
        shown = [v if v.isdigit() else f'"{v}"' for v in values]
        inside = ", ".join(f"{k}={v}" for k, v in zip(keys, shown, strict=False))
        text = f"def {name}({inside}):\n    return {keys[0]}"
    else:
        if style == 4:
            keys, absent = [key.upper() for key in keys], absent.upper()
        form = ("{} = {}", "{}: {}", "{}={}", '{} = "{}"', "export {}={}", "--{} {}")[style]
        text = "\n".join(form.format(k, v) for k, v in zip(keys, values, strict=False))
        if m.rng.random() < 0.2:
            text = f"[{new_word(m.rng)}]\n{text}"
    asked = [_about(m, k, v) for k, v in zip(keys, values, strict=False)]
    if style == 8:
        asked += [
            Asked(
                f"What is the default {form_of} {k}?".replace("default  ", "default "),
                f"The default {form_of}{' ' if form_of else ''}{k} is {v}.".replace("  ", " "),
                "",
            )
            for form_of in (m.rng.choice(("", "of", "value of")),)
            for k, v in zip(keys, values, strict=False)
        ]
        asked.append(
            Asked("What is the name of the function?", f"The name of the function is {name}.", "")
        )
    return text, asked, [_about(m, absent, "")]


def _rows(m: Maker) -> tuple[str, list[Asked], list[Asked]]:
    columns = m.rng.sample(list(_COLUMNS), m.rng.randint(1, 3))
    people = m.rng.random() < 0.6
    names = list(
        {
            (m.name() if people else m.odd("food" if m.rng.random() < 0.5 else "thing")): None
            for _ in range(m.rng.randint(3, 6))
        }
    )
    absent = names.pop()
    table = [[KINDS[_COLUMNS[c]](m).replace(",", "") for c in columns] for _ in names]
    head = [m.rng.choice(("name", "person") if people else ("item", "article", "thing")), *columns]
    lines = [head, *([name, *row] for name, row in zip(names, table, strict=True))]
    style = m.rng.randrange(4)
    if style == 0:
        text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    elif style == 1:
        text = "\n".join("\t".join(line) for line in lines)
    else:
        text = "\n".join(
            m.rng.choice((",", ", ", ";"))[: 2 if style == 2 else 1].join(line) for line in lines
        )
    asked: list[Asked] = []
    missing: list[Asked] = []
    for name, row in [*zip(names, table, strict=True), (absent, None)]:
        for index, column in enumerate(columns):
            whole = name if people else f"the {name}"
            said = m.rng.choice((f"{whole}'s {column}", f"the {column} of {whole}"))
            question = m.rng.choice(("What is {}?", "{}?", "Tell me {}.")).format(said)
            if column == "age" and people and m.rng.random() < 0.5:
                question = f"How old is {name}?"
            if column in ("price",) and m.rng.random() < 0.5:
                question = f"How much is {whole}?"
            if column in ("city", "room", "team") and m.rng.random() < 0.5:
                question = f"Which {column} does {whole} have?"
            answer = f"{capital(said)} is {row[index] if row else 'not in the text'}."
            (asked if row else missing).append(Asked(capital(question), answer, answer))
    return text, asked, missing


def _prices(m: Maker) -> tuple[str, list[Asked], list[Asked]]:
    items = list(
        {
            m.odd("food" if m.rng.random() < 0.6 else "goods", 0.1): None
            for _ in range(m.rng.randint(3, 7))
        }
    )
    unit = m.rng.choice(("", "", " euros", " €", " dollars", "p"))
    values = [
        f"{m.rng.randint(0, 40)}.{m.rng.randint(5, 99):02}"
        if m.rng.random() < 0.7
        else str(m.number(1, 90))
        for _ in items
    ]
    values = [value + unit for value in values]
    absent = items.pop()
    joint = m.rng.choice((" ", ": ", " - ", " for ", " at "))
    lines = [f"{item}{joint}{value}" for item, value in zip(items, values, strict=False)]
    text = m.rng.choice(
        (
            capital(", ".join(lines)) + ".",
            "\n".join(lines),
            "\n".join(f"- {line}" for line in lines),
        )
    )
    form = m.rng.choice(
        (
            "How much {is} the {}?",
            "What {do} the {} cost?",
            "How much {do} the {} cost?",
            "Price of the {}?",
            "The {}?",
        )
    )
    asked = []
    for item, value in [*zip(items, values, strict=False), (absent, "")]:
        many = item.endswith("s")
        question = (
            form.replace("{is}", "are" if many else "is")
            .replace("{do}", "do" if many else "does")
            .format(item)
        )
        verb = ("cost" if many else "costs") if "cost" in form else ("are" if many else "is")
        missing = "a sum that is not in the text" if "cost" in form else "not in the text"
        asked.append(Asked(question, f"The {item} {verb} {value or missing}.", ""))
    return text, asked[:-1], asked[-1:]


def _plan(m: Maker) -> tuple[str, list[Asked], list[Asked]]:
    days = m.rng.sample(words("day"), m.rng.randint(3, 6))
    kind = m.rng.choice(("food", "activity", "event", "animal"))
    things = list({m.noun(kind): None for _ in days})
    days = days[: len(things)]
    absent, lost = days.pop(), things.pop()
    form, joint = (
        m.rng.choice(("{}: {}", "{} {}", "{} - {}", "on {} {}", "{} is {}")),
        m.rng.choice((", ", ". ", "\n", "; ")),
    )
    lines = [form.format(day, thing) for day, thing in zip(days, things, strict=True)]
    text = capital(joint.join(map(capital, lines) if joint != ", " else lines)) + (
        "" if joint == "\n" else "."
    )
    ask = m.rng.choice(
        (
            "What is on {}?",
            "What is there on {}?",
            "What do we have on {}?",
            "What about {}?",
            "{}?",
        )
    )
    asked = [
        Asked(ask.format(day), f"On {day} there is {thing}.", "")
        for day, thing in zip(days, things, strict=True)
    ]
    asked += [
        Asked(
            m.rng.choice(
                (f"When is {thing}?", f"When is there {thing}?", f"On which day is {thing}?")
            ),
            f"There is {thing} on {day}.",
            "",
        )
        for day, thing in zip(days, things, strict=True)
    ]
    missing = [
        Asked(ask.format(absent), f"On {absent} there is something that is not in the text.", ""),
        Asked(f"When is {lost}?", f"There is {lost} on a day that is not in the text.", ""),
    ]
    return text, asked, missing


_COUNTED = ("no", "one", "two", "three", "four", "five", "six", "seven")
_LISTS = (
    (
        "Shopping",
        "goods",
        "you have to buy {v}",
        (
            "What do I have to buy?",
            "What do we have to buy?",
            "List what to buy.",
            "What is on the shopping list?",
            "What should I buy?",
        ),
        "things",
    ),
    (
        "To do",
        "task",
        "you have to {v}",
        ("What do I have to do?", "What is to do?", "List what I have to do."),
        "things",
    ),
    (
        "Invited",
        "person",
        "{v} are invited",
        ("Who is invited?", "Whom did we invite?", "List who is invited."),
        "people",
    ),
    ("Present", "person", "{v} are present", ("Who is present?", "Who was there?"), "people"),
    (
        "Ingredients",
        "food",
        "the ingredients are {v}",
        ("What are the ingredients?", "What does the recipe need?", "List the ingredients."),
        "ingredients",
    ),
    (
        "Bring",
        "goods",
        "you have to bring {v}",
        ("What do we have to bring?", "What should I bring?"),
        "things",
    ),
    (
        "Missing",
        "goods",
        "{v} are missing",
        ("What is missing?", "List what is missing."),
        "things",
    ),
    (
        "Team",
        "person",
        "{v} are in the team",
        ("Who is in the team?", "List the people in the team."),
        "people",
    ),
    (
        "Colours",
        "colour",
        "the colours are {v}",
        ("What are the colours?", "Which colours are there?"),
        "colours",
    ),
)


_ITEMS: dict[str, Callable[[Maker], str]] = {
    "person": Maker.name,
    "food": lambda m: m.noun("food"),
    "colour": lambda m: m.odd("colour"),
    "task": lambda m: f"{m.one('call|clean|mend|water|pay|wash|sort')} the {m.odd('thing')}",
    "goods": lambda m: m.noun("goods", "food"),
}


def _list(m: Maker) -> tuple[str, list[Asked], list[Asked]]:
    title, kind, sentence, asks, noun = m.rng.choice(_LISTS)
    items: dict[str, None] = {}
    while len(items) < m.rng.randint(2, 6):
        item = _ITEMS[kind](m)
        items[item] = None
    names = list(items)
    whole = f"{', '.join(names[:-1])} and {names[-1]}"
    text = m.rng.choice(
        (
            f"{title}: {', '.join(names)}",
            f"{title}: {whole}.",
            f"{title}:\n" + "\n".join(f"- {n}" for n in names),
            capital(sentence.format(v=whole)) + ".",
        )
    )
    asked = [Asked(m.rng.choice(asks), capital(sentence.format(v=whole)) + ".", "")] * 2
    count = _COUNTED[len(names)] if len(names) < len(_COUNTED) else str(len(names))
    if noun == "people":
        tail = sentence.removeprefix("{v} ")
        asked.append(Asked(f"How many people {tail}?", f"{capital(count)} people {tail}.", ""))
    return text, asked, []


def draw_table(m: Maker) -> tuple[str, list[Asked], list[Asked]]:
    """A text, questions about what it holds, and questions about what it does not hold."""
    makers: tuple[Callable[[Maker], tuple[str, list[Asked], list[Asked]]], ...] = (
        _settings,
        _rows,
        _prices,
        _plan,
        _list,
    )
    while True:
        text, asked, missing = m.rng.choices(makers, (4, 3, 2, 2, 3))[0](m)
        # A table whose draws were all the same word has one row, and that one is left out
        if asked:
            return text, asked, missing
