"""A prompt that ends within the answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rqchat.engine.prompt import Prompt

__all__ = ["continued"]


def continued(prompt: Prompt, answer_ids: Sequence[int]) -> Prompt:
    """`prompt` followed by the tokens with which the answer begins."""
    return dataclasses.replace(
        prompt,
        token_ids=(*prompt.token_ids, *answer_ids),
        keys=(*prompt.keys, *answer_ids),
    )
