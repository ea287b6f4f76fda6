"""How many soft tokens a picture needs, by its pixels and by how much fine detail it has. No torch.

A picture is made as small as a budget has it, and large again: where letters and thin lines are
lost on the way, the budget is too small. Photographs and drawings lose next to nothing.
"""

from __future__ import annotations

import math

from PIL import Image, ImageChops

from rqchat.engine.settings import DEFAULT_IMAGE_TOKENS, IMAGE_TOKEN_BUDGETS

__all__ = ["detail_tokens"]

_TOKEN_PIXELS = 48 * 48
_EDGE = 48  # of 255: a pixel that is so far off was part of a letter or a line
_MOST_LOST_SHARE = 0.005  # of all pixels; measured, see docs/design.md


def detail_tokens(image: Image.Image) -> int:
    """The smallest budget from `DEFAULT_IMAGE_TOKENS` on at which `image` keeps its fine detail.

    No more than its pixels fill: what is made larger gains nothing.
    """
    budgets = [each for each in IMAGE_TOKEN_BUDGETS if each >= DEFAULT_IMAGE_TOKENS]
    pixels = image.width * image.height
    filled = next((each for each in budgets if each * _TOKEN_PIXELS >= pixels), budgets[-1])
    if filled == budgets[0]:
        return filled
    # More than the largest budget takes is lost in any case
    whole = _resized(image.convert("L"), budgets[-1])
    for budget in budgets[: budgets.index(filled)]:
        small = _resized(whole, budget).resize(whole.size, Image.Resampling.BICUBIC)
        lost = ImageChops.difference(whole, small).histogram()[_EDGE:]
        if sum(lost) <= _MOST_LOST_SHARE * whole.width * whole.height:
            return budget
    return filled


def _resized(image: Image.Image, budget: int) -> Image.Image:
    factor = math.sqrt(budget * _TOKEN_PIXELS / (image.width * image.height))
    if factor >= 1:
        return image
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    return image.resize(size, Image.Resampling.BICUBIC)
