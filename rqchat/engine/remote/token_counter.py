"""How many tokens a prompt has at a server: counted by the server, or estimated. No torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rqchat.engine.conversation import Message
from rqchat.engine.generation.prompt_content import GAP, document_text
from rqchat.engine.inputs.pictures import soft_token_count
from rqchat.engine.remote.chat_messages import ChatMessages
from rqchat.engine.remote.connection import Connection, ServerError
from rqchat.engine.settings import DEFAULT_IMAGE_TOKENS
from rqchat.errors import RqchatError

__all__ = ["TokenCounter", "TokenEstimate", "estimate"]

# What a server without a way to count answers
_UNKNOWN_WAY = (400, 404, 405, 422, 500, 501)
_TURN_TOKENS, _LETTERS_A_TOKEN = 5, 3.5
# Scripts that put no blanks between words: about a token a letter
_DENSE = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\ud7ff\uf900-\ufaff]")
_WORD = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class TokenEstimate:
    """A prompt's tokens as they look from outside.

    Attributes:
        likely: about so many.
        least: no fewer; no token holds parts of two words.
    """

    likely: int
    least: int


def estimate(messages: Sequence[Message]) -> TokenEstimate:
    """The tokens of a prompt whose tokenizer is not known."""
    texts = [_text(message) for message in messages]
    letters, dense = sum(map(len, texts)), sum(len(_DENSE.findall(text)) for text in texts)
    words = sum(1 for text in texts for _ in _WORD.finditer(text))
    pictures = [picture for message in messages for picture in message.pictures]
    seen = sum(soft_token_count(each.width, each.height, DEFAULT_IMAGE_TOKENS) for each in pictures)
    likely = int(dense + (letters - dense) / _LETTERS_A_TOKEN) + seen
    return TokenEstimate(max(likely, words) + _TURN_TOKENS * len(messages), words)


def _text(message: Message) -> str:
    return GAP.join([*map(document_text, message.documents), message.text])


class TokenCounter:
    """Counts prompts by the first way that the server has.

    Attributes:
        is_exact: whether it counts; False once it is known that it can only estimate.
    """

    def __init__(self, connection: Connection, model: str, writer: ChatMessages) -> None:
        self._connection, self._model, self._writer = connection, model, writer
        # Recent llama.cpp and vLLM have the first, older vLLM the second
        self._ways: list[Callable[[Sequence[Message], bool], int]] = [self._count, self._tokenize]
        self.is_exact = True

    def count(self, messages: Sequence[Message], *, thinking: bool) -> int:
        """The tokens of the prompt that `messages` make.

        Raises:
            RqchatError: the server cannot be reached, or refuses.
        """
        while self._ways:
            try:
                return self._ways[0](messages, thinking)
            except ServerError as error:
                if error.status not in _UNKNOWN_WAY:
                    raise
                del self._ways[0]
        self.is_exact = False
        return estimate(messages).likely

    def rough(self, messages: Sequence[Message], *, thinking: bool) -> int:
        """As `count`; an estimate where the server cannot be reached."""
        try:
            return self.count(messages, thinking=thinking)
        except RqchatError:
            return estimate(messages).likely

    def _count(self, messages: Sequence[Message], thinking: bool) -> int:
        body = self._writer.anthropic(messages) | self._asked(thinking) | {"max_tokens": 1}
        return _number(self._connection.post("/messages/count_tokens", body), "input_tokens")

    def _tokenize(self, messages: Sequence[Message], thinking: bool) -> int:
        body = {"messages": self._writer.openai(messages)} | self._asked(thinking)
        url = f"{self._connection.address.root}/tokenize"
        return _number(self._connection.post(url, body), "count")

    def _asked(self, thinking: bool) -> dict[str, Any]:
        return {"model": self._model, "chat_template_kwargs": {"enable_thinking": thinking}}


def _number(answer: Any, key: str) -> int:
    """What stands at `key`; a server that answers something else does not know the way."""
    found = answer.get(key) if isinstance(answer, dict) else None
    if type(found) is not int or found < 1:
        raise ServerError(f"the server's answer holds no {key}", _UNKNOWN_WAY[0])
    return found
