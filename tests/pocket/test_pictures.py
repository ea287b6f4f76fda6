"""The picture world: what is said about a scene must be true of its geometry and of its pixels."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from random import Random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rqchat.pocket.training.vision.painting import render
from rqchat.pocket.training.vision.picture_questions import describe, questions
from rqchat.pocket.training.vision.scene_sampling import sample_scene
from rqchat.pocket.training.vision.scenes import COLOURS, KINDS, Scene, Shape, ordered, outline

SEEDS = st.integers(0, 2**32)
NUMBERS = ("no", "one", "two", "three", "four")
SIDES: dict[str, Callable[[Shape], bool]] = {
    "left": lambda s: s.x < 0.41,
    "right": lambda s: s.x > 0.59,
    "top": lambda s: s.y < 0.41,
    "bottom": lambda s: s.y > 0.59,
}
THREE = Scene(
    shapes=(
        Shape("star", "blue", (30, 60, 220), 0.8, 0.5, 0.25),
        Shape("circle", "red", (220, 20, 20), 0.2, 0.5, 0.25),
        Shape("circle", "orange", (255, 140, 0), 0.5, 0.2, 0.2),
    ),
    background=(255, 255, 255),
    background_name="white",
    width=640,
    height=420,
)


def scene_of(seed: int) -> Scene:
    return sample_scene(Random(seed))


def nearest_name(rgb: np.ndarray) -> str:
    """The basic colour whose nearest palette value, written down here anew, is closest."""
    distances = {
        name: min(math.dist(rgb, value) for value in values) for name, values in COLOURS.items()
    }
    return min(distances, key=lambda name: distances[name])


def holds(place_words: str, shape: Shape) -> bool:
    """Whether 'at the top left' and the like is true of a shape, by its coordinates alone."""
    said = {side for side in SIDES if side in place_words.split()}
    return said == {side for side, is_there in SIDES.items() if is_there(shape)}


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_same_seed_gives_same_scene_pixels_and_questions(seed: int) -> None:
    first, second = scene_of(seed), scene_of(seed)
    assert first == second
    assert render(first).tobytes() == render(second).tobytes()
    assert questions(first, Random(seed)) == questions(second, Random(seed))


def test_seeds_give_different_scenes() -> None:
    assert len({scene_of(seed) for seed in range(50)}) == 50


@given(SEEDS)
@example(82)  # a ring whose band is 4.5 pixels wide
@example(548230)  # and one of 3 pixels
@settings(max_examples=60, deadline=None)
def test_named_colour_is_where_the_shape_is(seed: int) -> None:
    scene = scene_of(seed)
    pixels = np.asarray(render(scene), dtype=float)
    unit = math.sqrt(scene.width * scene.height)
    for shape in scene.shapes:
        x, y = shape.x * scene.width, shape.y * scene.height
        if shape.kind == "ring":  # its middle shows the background: look at the middle of the band
            inner, radius = 0.45 + 0.3 * shape.variant, shape.size / 2 * unit
            x += 0.5 * (1 + inner) * radius
            if (1 - inner) * radius < 6:
                continue  # three pixels, rounding and two smoothed edges: no pure pixel is certain
        rows, columns = (slice(round(at) - 1, round(at) + 2) for at in (y, x))
        patch = pixels[rows, columns].mean(axis=(0, 1))
        # 9 pixels of noise with sigma 7 average to sigma 2.4; JPEG at quality 60 shifts more.
        assert math.dist(patch, shape.rgb) < 60
        assert math.dist(patch, shape.rgb) < math.dist(patch, scene.background)


@given(SEEDS)
@settings(max_examples=200, deadline=None)
def test_sampled_shade_has_its_name(seed: int) -> None:
    for shape in scene_of(seed).shapes:
        near = min(math.dist(shape.rgb, value) for value in COLOURS[shape.colour])
        assert near < 150
        hue_names = {"gray", "black", "white"}
        if shape.colour in hue_names:
            assert max(shape.rgb) - min(shape.rgb) < 30


def test_palette_values_are_nearest_to_their_own_name() -> None:
    for name, values in COLOURS.items():
        assert {nearest_name(np.array(value)) for value in values} == {name}


@given(SEEDS)
@settings(max_examples=80, deadline=None)
def test_description_is_true(seed: int) -> None:
    scene = scene_of(seed)
    told = describe(scene)
    head, _, rest = told.removesuffix(".").partition(": ")
    assert head.split()[2] == NUMBERS[len(scene.shapes)]
    parts = re.split(r", | and ", rest)
    assert len(parts) == len(scene.shapes)
    left = list(scene.shapes)
    for part in parts:
        _, colour, kind, place = part.split(" ", 3)
        match = next(s for s in left if (s.colour, s.kind) == (colour, kind) and holds(place, s))
        left.remove(match)
    assert not left


@given(SEEDS)
@settings(max_examples=60, deadline=None)
def test_shapes_lie_inside_the_frame_and_apart(seed: int) -> None:
    scene = scene_of(seed)
    across, down = math.sqrt(scene.width / scene.height), math.sqrt(scene.height / scene.width)
    points = [np.array(outline(s)) + (s.x * across, s.y * down) for s in scene.shapes]
    for own in points:
        assert own.min() >= 0
        assert own[:, 0].max() <= across
        assert own[:, 1].max() <= down
    for i, a in enumerate(points):
        for b in points[:i]:
            assert np.hypot(*(a[:, None] - b[None]).transpose(2, 0, 1)).min() > 0.01


def test_told_from_left_to_right() -> None:
    assert [s.colour for s in ordered(THREE)] == ["red", "orange", "blue"]
    assert describe(THREE) == (
        "There are three shapes: a red circle on the left, an orange circle at the top "
        "and a blue star on the right."
    )


def test_unclear_place_is_refused() -> None:
    shape = Shape("circle", "red", (255, 0, 0), 0.41, 0.5, 0.2)
    scene = Scene((shape,), (0, 0, 0), "black", 90, 90)
    with pytest.raises(ValueError, match=r"0\.41"):
        describe(scene)


def answers(question: str) -> set[str]:
    """All answers that a question of this meaning gets over many draws of the wording."""
    pairs = [pair for seed in range(400) for pair in questions(THREE, Random(seed))]
    return {answer for asked, answer in pairs if asked.lower() == question.lower()}


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("How many shapes are there?", "There are three shapes."),
        ("How many circles are there?", "There are two circles."),
        ("How many stars?", "There is one star."),
        ("How many crosses are there?", "There are no crosses."),
        ("How many red shapes are there?", "There is one red shape."),
        ("What colour is the star?", "The star is blue."),
        ("What color is the star?", "The star is blue."),
        ("What shape is the red one?", "The red shape is a circle."),
        ("Where is the star?", "The star is on the right."),
        ("Where is the heart?", "There is no heart."),
        ("Is there an orange circle?", "Yes, there is an orange circle."),
        ("Is there a blue circle?", "No, there is no blue circle."),
        ("What is above the star?", "An orange circle is above the star."),
        (
            "What is to the left of the star?",
            "A red circle and an orange circle are left of the star.",
        ),
        ("What is right of the star?", "Nothing is right of the star."),
        ("Is the star left of the red circle?", "No, the star is right of the red circle."),
        ("What is on the left?", "A red circle is on the left."),
        ("What is in the center?", "Nothing is in the centre."),
        ("What colour is the background?", "The background is white."),
    ],
)
def test_answer(question: str, answer: str) -> None:
    assert answers(question) == {answer}


def test_no_question_about_the_circle_when_there_are_two() -> None:
    asked = [question for seed in range(50) for question, _ in questions(THREE, Random(seed))]
    assert not [question for question in asked if re.search(r"the circle\b", question)]


@given(SEEDS)
@settings(max_examples=60, deadline=None)
def test_counts_are_those_of_the_scene(seed: int) -> None:
    scene = scene_of(seed)
    for question, answer in questions(scene, Random(seed)):
        asked = re.match(r"How many (\S+?)( shapes)?( |\?)", question.replace("grey", "gray"))
        if asked:
            word = asked[1]
            true = sum(
                word in ("shapes", s.colour, f"{s.kind}s", f"{s.kind}es") for s in scene.shapes
            )
            assert answer.split()[2] == NUMBERS[true]


@given(st.floats(0.4, 2.5), st.integers(60, 900), SEEDS)
@settings(max_examples=25, deadline=None)
def test_any_frame_is_drawn_at_its_size(ratio: float, side: int, seed: int) -> None:
    size = (round(side * math.sqrt(ratio)), round(side / math.sqrt(ratio)))
    scene = sample_scene(Random(seed), size_px=size)
    image = render(scene)
    assert image.size == size
    assert image.mode == "RGB"
    assert describe(scene).endswith(".")


def test_every_kind_and_colour_occurs_alone_and_in_company() -> None:
    scenes = [scene_of(seed) for seed in range(600)]
    alone = [scene for scene in scenes if len(scene.shapes) == 1]
    for group in (alone, [scene for scene in scenes if len(scene.shapes) > 1]):
        assert {s.kind for scene in group for s in scene.shapes} == set(KINDS)
        assert {s.colour for scene in group for s in scene.shapes} == set(COLOURS)
