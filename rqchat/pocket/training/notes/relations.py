"""The relations of everyday notes: how each is stated and how it is asked for.

In a template `{s}` is the subject and `{v}` the value; `{is}`, `{was}`, `{has}`, `{do}` and any
other `{verb}` agree with the subject. The first statement of a relation is the plain one; with
`ABSENT` in the place of its value it says that the text does not hold it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["Relation", "relations"]

_TABLE = Path(__file__).with_name("relations.txt")


@dataclass(frozen=True, slots=True)
class Relation:
    """One relation.

    Attributes:
        subject: kinds of subject, as `subjects.py` names them.
        value: kinds of value, as `values.KINDS` names them.
        says: statements.
        asks: questions for the value.
        who: questions for the subject, given the value.
        sure: yes-or-no questions with a value.
        weight: how often it is drawn, beside others.
        specific: its questions name its verb, so others of the same subject may stand beside it.
    """

    subject: tuple[str, ...]
    value: tuple[str, ...]
    says: tuple[str, ...]
    asks: tuple[str, ...]
    who: tuple[str, ...] = ()
    sure: tuple[str, ...] = ()
    weight: float = 1.0
    specific: bool = False


# subjects | values | statements | questions | questions for the subject | yes or no | weight

# base form: said with a place, a time or an object after it
_PLACE_VERBS = """live work sleep study stay play train swim sit park shop wait hide rest exercise
    teach perform cook camp eat camp hang practise volunteer jog"""
_TIME_VERBS = """start begin end open close leave arrive depart finish stop land return resume"""
_PERSON_TIME_VERBS = """eat leave arrive play train work call practise teach return
    visit sleep rehearse swim retire graduate move"""
_OBJECT_VERBS = """like love hate need drive play wear paint repair grow read study build sell own
    use prefer carry hold keep fear miss know watch recommend hear hunt draw deliver rent
    borrow plant clean mend design feed train support admire clean lead run invent"""
_PAST_VERBS = """wrote/write built/build found/find lost/lose bought/buy sold/sell won/win made/make
    took/take broke/break stole/steal painted/paint designed/design repaired/repair
    cooked/cook baked/bake ordered/order drew/draw brought/bring forgot/forget
    chose/choose saw/see caught/catch visited/visit received/receive sent/send lent/lend
    borrowed/borrow planted/plant discovered/discover cleaned/clean hid/hide read/read
    opened/open closed/close started/start founded/found tested/test wore/wear ate/eat
    drank/drink sang/sing invented/invent missed/miss packed/pack returned/return"""


def _verb_relations() -> list[Relation]:
    made = []
    for verb in (*_PLACE_VERBS.split(), "?", "?"):
        asks = (
            f"Where {{do}} {{s}} {verb}?",
            f"Where {{do}} {{s}} {verb}?",
            f"Tell me where {{s}} {{{verb}}}.",
        )
        made.append(
            Relation(
                ("person",),
                ("place", "city"),
                (f"{{s}} {{{verb}}} {{v}}", f"{{s}} usually {{{verb}}} {{v}}"),
                asks,
                (f"Who {{{verb}}} {{v}}?",),
                (f"{{Do}} {{s}} {verb} {{v}}?",),
                0.3 if verb != "live" else 2,
                True,
            )
        )
    for subject, verbs in (("event shop vehicle", _TIME_VERBS), ("person", _PERSON_TIME_VERBS)):
        for verb in (*verbs.split(), "?"):
            times = (
                f"When {{do}} {{s}} {verb}?",
                f"What time {{do}} {{s}} {verb}?",
                f"At what time {{do}} {{s}} {verb}?",
                f"when {{do}} {{s}} {verb}",
            )
            made.append(
                Relation(
                    tuple(subject.split()),
                    ("when",),
                    (f"{{s}} {{{verb}}} {{v}}", f"{{s}} will {verb} {{v}}"),
                    times,
                    (
                        f"What {{{verb}}} {{v}}?"
                        if "event" in subject
                        else f"Who {{{verb}}} {{v}}?",
                    ),
                    (f"{{Do}} {{s}} {verb} {{v}}?",),
                    0.4 if "event" in subject else 0.15,
                    True,
                )
            )
    for verb in (*_OBJECT_VERBS.split(), "?", "?", "?"):
        made.append(
            Relation(
                ("person",),
                ("object", "phrase"),
                (f"{{s}} {{{verb}}} {{v}}",),
                (f"What {{do}} {{s}} {verb}?", f"What is it that {{s}} {{{verb}}}?"),
                (f"Who {{{verb}}} {{v}}?",),
                (f"{{Do}} {{s}} {verb} {{v}}?",),
                0.1,
                True,
            )
        )
    for pair in _PAST_VERBS.split():
        past, verb = pair.split("/")
        made.append(
            Relation(
                ("person",),
                ("object",),
                (
                    f"{{s}} {past} {{v}}",
                    f"Yesterday {{s}} {past} {{v}}",
                    f"{{s}} {past} {{v}} last week",
                ),
                (f"What did {{s}} {verb}?",),
                (f"Who {past} {{v}}?",),
                (f"Did {{s}} {verb} {{v}}?",),
                0.1,
                True,
            )
        )
        made.append(
            Relation(
                ("person",),
                ("place", "when"),
                (f"{{s}} {past} {{o}} {{v}}",),
                (f"{{W}} did {{s}} {verb} {{o}}?",),
                (),
                (),
                0.06,
                True,
            )
        )
    return made


def _from_block(block: str) -> Relation:
    head, *lines = block.splitlines()
    subject, value, weight = head.split(" | ")
    fields = {"says": "", "asks": "", "who": "", "sure": ""}
    name = ""
    for line in lines:
        if line[:4] != "    ":
            name, _, line = line.strip().partition(": ")
        fields[name] += " " + line.strip()
    says, asks, who, sure = (
        tuple(part.strip() for part in text.split(";") if part.strip()) for text in fields.values()
    )
    kinds = tuple(subject.split()), tuple(value.split())
    return Relation(*kinds, says, asks, who, sure, float(weight), "@" in fields["asks"])


@cache
def relations(*, held_out: bool = False) -> tuple[Relation, ...]:
    """Every relation that training sees, or those that are kept from it."""
    blocks = _TABLE.read_text(encoding="utf-8").strip().split("\n\n")
    found = [_from_block(block) for block in blocks if not block.startswith("#")]
    verbs = _verb_relations()
    if held_out:
        # Every ninth verb, so that `evaluate --fresh` asks with verbs that training never had.
        return tuple(verbs[5::9])
    return (*found, *(verb for index, verb in enumerate(verbs) if index % 9 != 5))
