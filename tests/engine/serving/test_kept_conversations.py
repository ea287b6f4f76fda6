"""Conversations take turns on one model, and each is read once."""

from __future__ import annotations

from typing import Any

import openai

FACTS = " ".join(f"Box {number} holds {number * 7} nails." for number in range(90))
NOTE = f"{FACTS} The spare key is kept in the blue cabinet."
GREEDY: dict[str, Any] = {"model": "any", "temperature": 0, "max_tokens": 24}


def _ask(client: openai.OpenAI, *texts: str) -> tuple[str, int, int]:
    """The answer, the tokens of the prompt, and those that were not read again."""
    roles = ("user", "assistant")
    messages: Any = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    answer = client.chat.completions.create(messages=messages, **GREEDY)
    usage = answer.usage
    assert usage is not None and usage.prompt_tokens_details is not None
    cached = usage.prompt_tokens_details.cached_tokens or 0
    return answer.choices[0].message.content or "", usage.prompt_tokens, cached


def test_a_short_foreign_request_throws_no_long_conversation_away(client: openai.OpenAI) -> None:
    question = f"{NOTE}\n\nWhere is the spare key kept?"
    said, tokens, _ = _ask(client, question)
    assert "blue cabinet" in said and tokens > 700
    alone = _ask(client, question, said, "And where is it now?")
    for _ in range(2):
        assert _ask(client, "Give this chat a title.")[2] < 20
        again = _ask(client, question, said, "And where is it now?")
        assert again[0] == alone[0]
        assert tokens - 20 < again[2] < again[1]


def test_another_question_behind_the_same_document_reads_the_question_alone(
    client: openai.OpenAI,
) -> None:
    """Although the document and the question are one text, of which nobody says where it ends."""
    _, tokens, _ = _ask(client, f"Well. {NOTE}\n\nWhere is the spare key kept?")
    said, _, cached = _ask(client, f"Well. {NOTE}\n\nHow many nails are in box 3?")
    assert tokens - 300 < cached < tokens and said


def test_two_long_conversations_alternate(client: openai.OpenAI) -> None:
    first, second = f"Alpha. {FACTS}", f"Beta. {FACTS}"
    said = [_ask(client, text)[0] for text in (first, second)]
    for text, answer in zip((first, second), said, strict=True):
        _, tokens, cached = _ask(client, text, answer, "Thanks.")
        assert tokens - 100 < cached
