"""What is said about a picture of plain shapes: a description, and questions with their answers.

Every sentence follows from the geometry of a `Scene` alone and has a fixed form; questions vary in
wording and spelling. Asking about what is not there gets an answer that says so.
"""

from __future__ import annotations

from random import Random

from rqchat.pocket.training.vision.scenes import (
    APART,
    COLOURS,
    KINDS,
    SAME,
    Scene,
    Shape,
    ordered,
    place,
)

__all__ = ["describe", "questions"]

_NUMBERS = ("no", "one", "two", "three", "four")
_PLACES = {
    (0, 0): "at the top left",
    (1, 0): "at the top",
    (2, 0): "at the top right",
    (0, 1): "on the left",
    (1, 1): "in the centre",
    (2, 1): "on the right",
    (0, 2): "at the bottom left",
    (1, 2): "at the bottom",
    (2, 2): "at the bottom right",
}


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _plural(kind: str) -> str:
    return f"{kind}es" if kind == "cross" else f"{kind}s"


def _name(shape: Shape) -> str:
    return f"{shape.colour} {shape.kind}"


def _where(shape: Shape) -> str:
    return _PLACES[place(shape)]


def _listed(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _there_are(count: int, one: str, many: str) -> str:
    verb = "is" if count == 1 else "are"
    return f"There {verb} {_NUMBERS[count]} {one if count == 1 else many}"


def describe(scene: Scene) -> str:
    """How many shapes there are, then each with its colour and place, in the order of `ordered`."""
    told = [f"{_article(_name(s))} {_where(s)}" for s in ordered(scene)]
    return f"{_there_are(len(told), 'shape', 'shapes')}: {_listed(told)}."


_WHAT = (
    "What is in this picture?",
    "What is in the picture?",
    "What's in this picture?",
    "Describe this picture.",
    "Describe the picture.",
    "What do you see?",
    "What do you see in this picture?",
    "What can you see in the picture?",
    "What does this picture show?",
    "What shapes are in the picture?",
    "Which shapes are there?",
    "Tell me what is in this picture.",
)
_TAILS = ("", "", " in the picture", " in this picture", " here")


def _reword(question: str, rng: Random) -> str:
    """American spelling and 'image' for 'picture', each half the time or less."""
    pairs = (("colour", "color"), ("centre", "center"), ("picture", "image"), ("gray", "grey"))
    for old, new in pairs:
        if rng.random() < 0.45:
            question = question.replace(old, new)
    return question


def _handles(scene: Scene) -> list[tuple[str, Shape]]:
    """(noun, shape) for every noun that means one shape alone: 'star', 'red star', 'red shape'."""
    found: list[tuple[str, Shape]] = []
    for shape in scene.shapes:
        for noun in (shape.kind, _name(shape), f"{shape.colour} shape"):
            if sum(_matches(noun, s) for s in scene.shapes) == 1:
                found.append((noun, shape))
    return found


def _matches(noun: str, shape: Shape) -> bool:
    return noun in (shape.kind, _name(shape), f"{shape.colour} shape", "shape")


def _absent(scene: Scene, rng: Random) -> str:
    """A noun that no shape of the scene answers to, near misses included."""
    kinds, colours = [s.kind for s in scene.shapes], [s.colour for s in scene.shapes]
    while True:
        colour = rng.choice((rng.choice(colours), rng.choice(list(COLOURS))))
        kind = rng.choice((rng.choice(kinds), rng.choice(KINDS)))
        noun = rng.choice((kind, f"{colour} {kind}", f"{colour} shape"))
        if not any(_matches(noun, s) for s in scene.shapes):
            return noun


def _counting(scene: Scene, rng: Random) -> list[tuple[str, str]]:
    tail = rng.choice(_TAILS)
    present, other = rng.choice(scene.shapes), rng.choice(KINDS)
    asked = [("shape", "shapes")]
    asked += [(kind, _plural(kind)) for kind in {present.kind: 0, other: 0}]
    for colour in {present.colour: 0, rng.choice(list(COLOURS)): 0}:
        asked.append((f"{colour} shape", f"{colour} shapes"))
    pairs = []
    for one, many in asked:
        count = sum(_matches(one, s) for s in scene.shapes)
        form = rng.choice(("How many {} are there{}?",) * 2 + ("How many {}{}?",))
        pairs.append((form.format(many, tail), f"{_there_are(count, one, many)}."))
    return pairs


def _properties(scene: Scene, rng: Random) -> list[tuple[str, str]]:
    """Colour by kind, kind by colour, place by either."""
    pairs = []
    for noun, shape in _handles(scene):
        if noun == shape.kind:
            form = rng.choice(("What colour is the {}?",) * 2 + ("Which colour is the {}?",))
            pairs.append((form.format(noun), f"The {noun} is {shape.colour}."))
        if noun.endswith(" shape"):
            form = rng.choice(
                ("What shape is the {} one?", "What is the {} shape?", "Which shape is {}?")
            )
            answer = f"The {noun} is {_article(shape.kind)}."
            pairs.append((form.format(shape.colour), answer))
        form = rng.choice(("Where is the {}?",) * 2 + ("Where in the picture is the {}?",))
        pairs.append((form.format(noun), f"The {noun} is {_where(shape)}."))
    return pairs


def _missing(scene: Scene, rng: Random) -> list[tuple[str, str]]:
    noun = _absent(scene, rng)
    forms = ("Where is the {}?", "What colour is the {}?")[: 2 if noun in KINDS else 1]
    return [(rng.choice(forms).format(noun), f"There is no {noun}.")]


def _existence(scene: Scene, rng: Random) -> list[tuple[str, str]]:
    shape = rng.choice(scene.shapes)
    noun = rng.choice((shape.kind, _name(shape), f"{shape.colour} shape"))
    missing, tail = _absent(scene, rng), rng.choice(_TAILS)
    form = rng.choice(("Is there {}{}?", "Is there {}{}?", "Do you see {}{}?", "Can you see {}{}?"))
    return [
        (form.format(_article(noun), tail), f"Yes, there is {_article(noun)}."),
        (form.format(_article(missing), tail), f"No, there is no {missing}."),
    ]


_SIDES: dict[str, tuple[str, int]] = {
    "left of": ("x", -1),
    "right of": ("x", 1),
    "above": ("y", -1),
    "below": ("y", 1),
}
_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def _lies(shape: Shape, side: str, other: Shape) -> bool | None:
    """Whether `shape` lies on that side of `other`; None where it could be argued about."""
    axis, sign = _SIDES[side]
    distance = sign * (getattr(shape, axis) - getattr(other, axis))
    if SAME < abs(distance) < APART:
        return None
    return bool(distance >= APART)


def _subject(shapes: list[Shape]) -> str:
    """'A red circle is', 'A red circle and a blue star are' or 'Nothing is'."""
    if not shapes:
        return "Nothing is"
    told = _listed([_article(_name(s)) for s in shapes])
    return f"A{told[1:]} {'is' if len(shapes) == 1 else 'are'}"


def _relations(scene: Scene, rng: Random) -> list[tuple[str, str]]:
    """What lies on one side of a shape, and whether another one does; only where it is certain."""
    handles = _handles(scene)
    if len(scene.shapes) < 2 or not handles:
        return []
    pairs = []
    (noun, shape), (other_noun, other) = rng.choice(handles), rng.choice(handles)
    for side in rng.sample(list(_SIDES), 2):
        asked = rng.choice((side, f"to the {side}" if "of" in side else side))
        verdicts = [(s, _lies(s, side, shape)) for s in ordered(scene) if s is not shape]
        if all(verdict is not None for _, verdict in verdicts):
            subject = _subject([s for s, verdict in verdicts if verdict])
            pairs.append((f"What is {asked} the {noun}?", f"{subject} {side} the {noun}."))
        if other is not shape and _lies(other, side, shape):
            answer = f"Yes, the {other_noun} is {side} the {noun}."
            pairs.append((f"Is the {other_noun} {asked} the {noun}?", answer))
        elif other is not shape and _lies(shape, side, other):
            answer = f"No, the {other_noun} is {_OPPOSITE[side]} the {noun}."
            pairs.append((f"Is the {other_noun} {asked} the {noun}?", answer))
    return pairs


def _places(scene: Scene, rng: Random) -> list[tuple[str, str]]:
    """What lies at one of the nine places; not asked where 'left' could mean 'top left' as well."""
    column, row = rng.randrange(3), rng.randrange(3)
    if rng.random() < 0.75:
        column, row = place(rng.choice(scene.shapes))
    here = [s for s in ordered(scene) if place(s) == (column, row)]
    others = [place(s) for s in scene.shapes if s not in here]
    beside = any(c == column for c, _ in others) if row == 1 else any(r == row for _, r in others)
    if (column == 1) != (row == 1) and beside:
        return []
    where = _PLACES[column, row]
    return [(f"What is {where}?", f"{_subject(here)} {where}.")]


def questions(scene: Scene, rng: Random) -> list[tuple[str, str]]:
    """Questions on a scene, in varied wording; an answer is a whole sentence of fixed form."""
    pairs = [(rng.choice(_WHAT), describe(scene))]
    for source in (_counting, _properties, _missing, _existence, _relations, _places):
        pairs += source(scene, rng)
    if scene.background_name is not None:
        form = rng.choice(("What colour is the background?", "What is the background colour?"))
        pairs.append((form, f"The background is {scene.background_name}."))
    return [(_reword(question, rng), answer) for question, answer in pairs]
