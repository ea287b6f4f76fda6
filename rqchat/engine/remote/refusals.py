"""What servers refuse, told apart by their words: prompts that are too long, unknown fields."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rqchat.engine.remote.connection import ServerError
from rqchat.errors import ContextLengthError

__all__ = ["as_too_long", "cut_unsaid", "too_long", "unknown_field"]

_REFUSED = (400, 413, 422)
_TOO_LONG = re.compile(
    r"exceed_context_size|context_length_exceeded|(context|prompt|input).{0,40}(length|size|window"
    r"|long)|too long|too many tokens",
    re.IGNORECASE,
)
_HOLDS = re.compile(r"(?:maximum context length|context (?:size|length|window))\D{0,20}(\d[\d,]*)")
_HAS = re.compile(r"(\d[\d,]*) (?:input |prompt )?tokens", re.IGNORECASE)
_UNKNOWN = re.compile(
    r"unrecogni[sz]ed|unknown|unsupported|unexpected|not permitted|extra|not support|invalid"
    r"|incompatible",
    re.IGNORECASE,
)


def too_long(
    input_tokens: int, context_tokens: int, *, goes_on: bool, about: str = ""
) -> ContextLengthError:
    """The error for a prompt of so many tokens; `about` is such as `at least `."""
    ways = ["shorten the input"]
    if goes_on:
        ways.append("put a summary for the older turns with /compact in the chat")
    ways.append("have the server started with a longer context")
    has = f"{about}{input_tokens:,} tokens" if input_tokens else "too many tokens"
    holds = f"{context_tokens:,} with the answer" if context_tokens else "fewer"
    return ContextLengthError(
        f"the prompt has {has}, but the server's context holds {holds}; {', or '.join(ways)}",
        input_tokens=input_tokens,
        context_tokens=context_tokens,
    )


def as_too_long(
    error: ServerError, input_tokens: int, context_tokens: int, *, goes_on: bool
) -> ContextLengthError | None:
    """The same of a server that says so, with its counts where it names them; None where `error`
    is another one. `input_tokens` and `context_tokens` are what is known without it, or 0."""
    words = f"{error.about.get('type', '')} {error.about.get('code', '')} {error}"
    if error.status not in _REFUSED or not _TOO_LONG.search(words):
        return None
    counted, holds = error.about.get("n_prompt_tokens"), error.about.get("n_ctx")
    context = holds if type(holds) is int else _first(_HOLDS, words) or context_tokens
    found = [_int(each) for each in _HAS.findall(words)]
    # vLLM names the least that is too many, and its count of the prompt in other releases
    named = max((each for each in found if each > context), default=0)
    tokens = counted if type(counted) is int else input_tokens or named
    return too_long(tokens, context, goes_on=goes_on, about="" if counted else "about ")


def cut_unsaid(host: str, read_tokens: int, least_tokens: int) -> ContextLengthError:
    """The error for an answer to a prompt of which the server read no more than `read_tokens`."""
    return ContextLengthError(
        f"{host} read {read_tokens:,} tokens of a prompt that has at least {least_tokens:,}: it cut"
        " the prompt without a word, so what came is no answer to it; have the server started with"
        " a longer context (ollama: num_ctx), or shorten the input",
        input_tokens=least_tokens,
        context_tokens=read_tokens,
    )


def unknown_field(error: ServerError, sent: Sequence[str]) -> str | None:
    """Which of the fields that were `sent` a strict server does not know; None for none."""
    words = f"{error.about.get('param', '')} {error}"
    if error.status not in (400, 422) or not _UNKNOWN.search(words):
        return None
    named = (field for field in sent if re.search(rf"(?<![a-z_]){field}(?![a-z_])", words))
    return next(named, None)


def _first(pattern: re.Pattern[str], text: str) -> int:
    found = pattern.search(text)
    return _int(found[1]) if found else 0


def _int(digits: str) -> int:
    return int(digits.replace(",", "")[:12])
