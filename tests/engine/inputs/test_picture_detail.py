"""Pages and screenshots get many soft tokens, photographs and drawings few."""

from __future__ import annotations

import io

import pytest
from PIL import Image, ImageDraw, ImageFont

from rqchat.engine.inputs.pictures import decode_picture
from rqchat.engine.planning.devices import planned_card
from rqchat.engine.planning.known_models import known_models
from rqchat.engine.planning.plan import make_plan, with_page_budget
from rqchat.engine.planning.shape import ModelShape
from rqchat.engine.settings import Settings


def _wanted(image: Image.Image) -> int:
    out = io.BytesIO()
    image.save(out, "PNG")
    return decode_picture(out.getvalue(), "x.png").wanted_tokens


def _letters(size: tuple[int, int], points: int, *, dark: bool = False, lines: int = 99) -> int:
    colours = ("black", "lightgrey") if dark else ("white", "black")
    image = Image.new("RGB", size, colours[0])
    drawing, font = ImageDraw.Draw(image), ImageFont.load_default(points)
    for line in range(min(lines, size[1] // (2 * points))):
        text = f"{line} def value_{line}(self): return {line * 7919} + total(kB)   " * 9
        drawing.text((20, 20 + line * points * 3 // 2), text, font=font, fill=colours[1])
    return _wanted(image)


def test_letters_ask_for_what_they_need_and_no_more_than_their_pixels_fill() -> None:
    assert _letters((1240, 1754), 25) == 1120  # a page of 12 points at 150 dots an inch
    assert _letters((1920, 1080), 14, dark=True) == 1120
    assert _letters((1920, 1080), 14, dark=True, lines=8) == 1120
    assert _letters((1000, 800), 14) == 560
    assert _letters((640, 480), 14) == 280


def test_what_is_smooth_asks_for_the_usual() -> None:
    slope = Image.linear_gradient("L").resize((2400, 1600)).convert("RGB")
    round_shapes = Image.radial_gradient("L").resize((1920, 1080)).convert("RGB")
    noise = Image.effect_noise((1920, 1080), 12).convert("RGB")  # of a photograph in the dark
    assert [_wanted(each) for each in (slope, round_shapes, noise)] == [280, 280, 280]


@pytest.mark.parametrize(("gib", "least"), [(20, 280), (24, 1120), (48, 1120)])
def test_a_budget_for_pages_costs_no_bits_and_no_context(gib: int, least: int) -> None:
    shape = ModelShape.from_config(known_models()[0].config)
    card, settings = planned_card(gib * 2**30), Settings(model="31b")
    plan = make_plan(shape, card, settings)
    paged = with_page_budget(plan, shape, settings, None)
    before, after = plan.chosen, paged.chosen
    assert (before.weights, before.kv_bits, before.head_bits, before.context_tokens) == (
        *(after.weights, after.kv_bits, after.head_bits, after.context_tokens),
    )
    assert paged.page_tokens >= least
    assert after.bytes.total <= card.free_bytes
    assert paged.budget_of(280) == 280
    asked = Settings(model="31b", image_tokens=140)
    named = with_page_budget(make_plan(shape, card, asked), shape, asked, None)
    assert named.budget_of(1120) == 140
