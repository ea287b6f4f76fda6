"""The tokens that structure a conversation: what ends an answer, and what is never drawn."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from rqchat.engine.generation.chat_template import ChatTemplate
from rqchat.engine.generation.prompt_content import SLOT, stand_in
from rqchat.engine.tool_calls import RESPONSE_START

__all__ = ["control_tokens", "stop_tokens", "suppressed_tokens"]

_CONTROL = re.compile(r"<\|.*|.*\|>")
_MEDIA = re.compile(r"<\|?(image|audio|video)(_soft_token)?\|?>")
_MEDIA_FIELD = re.compile(r"(image|audio|video|boi|eoi|boa|eoa)_token_(id|index)")


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
    found = _all_ids(configs, "eos_token_id")
    asked = {"role": "user", "content": "x"}
    answered = {"role": "assistant", "content": stand_in(0)}
    *_, after = re.split(SLOT, template.render([asked, answered]))
    controls = control_tokens(tokenizer)
    written = tokenizer.backend_tokenizer.encode(after, add_special_tokens=False).ids
    found.update([token for token in written if token in controls][:1])
    # What a tool says is never the model's: Google's generation_config.json names this token, those
    # of finetunes often do not.
    found.update(token for token, text in controls.items() if text == RESPONSE_START)
    return frozenset(found)


def suppressed_tokens(
    configs: Mapping[str, Mapping[str, Any]], tokenizer: Any, stop_ids: Collection[int]
) -> frozenset[int]:
    """Ids of all tokens that are never drawn: `suppress_tokens`, and what stands for media.

    A placeholder that a model writes would be read back as a picture or sound that is not there;
    models of 12B and less do write them. One that ends answers in some file still may.

    Args:
        configs: objects with `suppress_tokens`, by what errors call them, as in `stop_tokens`;
            those of media stand in config.json.
        tokenizer: whose tokens they are.
        stop_ids: what ends an answer.

    Raises:
        ValueError: `suppress_tokens` is something else.
    """
    spelled = {i for i, text in control_tokens(tokenizer).items() if _MEDIA.fullmatch(text)}
    named = {
        token
        for config in configs.values()
        for field, token in config.items()
        if type(token) is int and _MEDIA_FIELD.fullmatch(field)
    }
    return frozenset((spelled | named) - set(stop_ids) | _all_ids(configs, "suppress_tokens"))


def _all_ids(configs: Mapping[str, Mapping[str, Any]], field: str) -> set[int]:
    return {token for name, config in configs.items() for token in _ids(name, config, field)}


def _ids(name: str, config: Mapping[str, Any], field: str) -> list[int]:
    given = config.get(field)
    ids = given if isinstance(given, list) else [] if given is None else [given]
    if any(type(token) is not int for token in ids):
        raise ValueError(f"{field} of {name} is {given!r:.80}, not a token's number or several")
    return ids
