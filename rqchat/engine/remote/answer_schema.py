"""Whether a server's answer matches the JSON schema that it was asked for. No torch.

Servers promise it; one whose decoding is not constrained, or which does not know a keyword, breaks
that promise without a word.
"""

from __future__ import annotations

import json
from typing import Any

from jsonschema import exceptions, validators

from rqchat.engine.foreign import border
from rqchat.errors import RqchatError, UsageError

__all__ = ["check_answer", "response_format"]

_SHOWN = 80


def response_format(schema: str) -> dict[str, Any]:
    """What asks a server for it."""
    named = {"name": "answer", "schema": json.loads(schema), "strict": True}
    return {"type": "json_schema", "json_schema": named}


def check_answer(answer: str, schema: str) -> None:
    """Nothing where `answer` is JSON that matches.

    Raises:
        RqchatError: it is none, or does not match.
        UsageError: the schema itself is none.
    """
    with border(lambda cause: _refusal(f"is no JSON ({cause})", answer)):
        value = json.loads(answer)
    parsed = json.loads(schema)
    kind = validators.validator_for(parsed)
    with border(lambda cause: UsageError(f"--schema cannot be checked: {cause}")):
        wrong = exceptions.best_match(kind(parsed).iter_errors(value))
    if wrong is not None:
        raise _refusal(f"does not match the schema at {wrong.json_path}: {wrong.message}", answer)


def _refusal(why: str, answer: str) -> RqchatError:
    return RqchatError(
        f"the server's answer {why[: 3 * _SHOWN]}; it begins with {answer[:_SHOWN]!r}. Does the"
        " server support response_format json_schema?"
    )
