"""Conversations about several pictures: in one message, or one after another in a chat."""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

from rqchat.pocket.training.language.dialogues import Turn
from rqchat.pocket.training.vision.picture_questions import describe, questions
from rqchat.pocket.training.vision.scenes import COLOURS, KINDS, Scene

__all__ = ["ORDINALS", "gallery_conversation"]

ORDINALS = ("first", "second", "third", "fourth")
_COUNTED = ("no", "one", "two", "three", "four")


def gallery_conversation(rng: Random, scenes: Sequence[Scene], images: Sequence[str]) -> list[Turn]:
    """Questions about two to four pictures; `images` are their tokens as text."""
    if rng.random() < 0.5:
        return _in_one_message(rng, scenes, images)
    return _one_by_one(rng, scenes, images)


def _in_one_message(rng: Random, scenes: Sequence[Scene], images: Sequence[str]) -> list[Turn]:
    turns = [_any(rng, scenes) for _ in range(rng.choice((1, 2, 3)))]
    first = turns[0]
    return [Turn("".join(images) + first.question, first.answer), *turns[1:]]


def _one_by_one(rng: Random, scenes: Sequence[Scene], images: Sequence[str]) -> list[Turn]:
    turns: list[Turn] = []
    for index, (scene, image) in enumerate(zip(scenes, images, strict=True)):
        question, answer = _about(rng, scene)
        turns.append(Turn(image + question, answer))
        if index and rng.random() < 0.4:
            turns.append(_any(rng, scenes[: index + 1]))
    if rng.random() < 0.6:
        turns.append(_any(rng, scenes))
    return turns


def _about(rng: Random, scene: Scene) -> tuple[str, str]:
    pairs = questions(scene, rng)
    return pairs[0] if rng.random() < 0.4 else rng.choice(pairs)


def _any(rng: Random, scenes: Sequence[Scene]) -> Turn:
    pick = rng.random()
    if pick < 0.3:
        return _which(rng, scenes)
    if pick < 0.35:
        count = _COUNTED[len(scenes)]
        return Turn("How many pictures are there?", f"There are {count} pictures.")
    index = rng.randrange(len(scenes))
    name = rng.choice((f"the {ORDINALS[index]} picture",) * 3 + (f"picture {index + 1}",))
    if index == len(scenes) - 1 and rng.random() < 0.3:
        name = "the last picture"
    if rng.random() < 0.25:
        name = name.replace("picture", "image")
    if rng.random() < 0.5:
        told = describe(scenes[index])
        asked = rng.choice(
            ("What is in {}?", "Describe {}.", "What does {} show?", "What's in {}?")
        )
        return Turn(asked.format(name), f"In {name} there{told.removeprefix('There')}")
    while True:
        question, answer = _about(rng, scenes[index])
        if not re.search(r"picture|image|here|Describe|see|Which shapes", question):
            return Turn(f"{question.rstrip('?')} in {name}?", answer)


def _which(rng: Random, scenes: Sequence[Scene]) -> Turn:
    """Which of the pictures show a kind, a colour, or both."""
    shape = rng.choice(rng.choice(scenes).shapes)
    kind, colour = shape.kind, shape.colour
    if rng.random() < 0.25:
        kind, colour = rng.choice(KINDS), rng.choice(list(COLOURS))
    noun = rng.choice((kind, kind, f"{colour} {kind}", f"{colour} shape"))

    def shows(scene: Scene) -> bool:
        return any(
            noun in (s.kind, f"{s.colour} {s.kind}", f"{s.colour} shape") for s in scene.shapes
        )

    found = [ORDINALS[i] for i, scene in enumerate(scenes) if shows(scene)]
    article = "an" if noun[0] in "aeiou" else "a"
    if not found:
        answer = f"No picture has {article} {noun}."
    elif len(found) == 1:
        answer = f"The {found[0]} picture has {article} {noun}."
    else:
        told = f"{', the '.join(found[:-1])} and the {found[-1]} picture"
        answer = f"The {told} have {article} {noun}."
    asked = rng.choice(
        ("Which picture has {}?", "Which picture shows {}?", "In which picture is {}?")
    )
    return Turn(asked.format(f"{article} {noun}"), answer)
