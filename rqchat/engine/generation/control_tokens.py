"""The tokens that structure a conversation, and those among them that end an answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rqchat.engine.generation.chat_template import ChatTemplate
from rqchat.engine.generation.prompt_content import SLOT, stand_in

__all__ = ["control_tokens", "stop_tokens"]

_CONTROL = re.compile(r"<\|.*|.*\|>")


def control_tokens(tokenizer: Any) -> dict[int, str]:
    """Ids and spelling of the tokens that no text is made of."""
    return {
        token_id: token.content
        for token_id, token in tokenizer.added_tokens_decoder.items()
        if token.special or _CONTROL.fullmatch(token.content)
    }


def stop_tokens(
    configs: Mapping[str, Mapping[str, Any]], tokenizer: Any, template: ChatTemplate
) -> frozenset[int]:
    """Ids of all tokens that end an answer.

    The union of what each file says and of what the template writes after an answer: a finetune's
    generation_config.json often names `<eos>` alone, which the model never writes after a turn, and
    would go on with the next question.

    Args:
        configs: objects with an `eos_token_id`, by what errors call them: a number, a list of
            numbers, null, or none at all.
        tokenizer: whose tokens they are.
        template: writes turns.

    Raises:
        ValueError: a field is something else.
        ModelError: the template cannot write an answer.
    """
    found = {token for name, config in configs.items() for token in _ids(name, config)}
    asked = {"role": "user", "content": "x"}
    answered = {"role": "assistant", "content": stand_in(0)}
    *_, after = re.split(SLOT, template.render([asked, answered]))
    controls = control_tokens(tokenizer)
    written = tokenizer.backend_tokenizer.encode(after, add_special_tokens=False).ids
    found.update([token for token in written if token in controls][:1])
    return frozenset(found)


def _ids(name: str, config: Mapping[str, Any]) -> list[int]:
    given = config.get("eos_token_id")
    ids = given if isinstance(given, list) else [] if given is None else [given]
    if any(type(token) is not int for token in ids):
        raise ValueError(
            f"eos_token_id of {name} is {given!r:.80}, not a token's number or several"
        )
    return ids
