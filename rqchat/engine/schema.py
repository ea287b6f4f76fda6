"""JSON schemas that an answer has to match, turned into grammars by llguidance. No torch."""

from __future__ import annotations

import json
from pathlib import Path

from llguidance import LLMatcher

from rqchat.engine.documents import read_bytes
from rqchat.errors import UsageError

__all__ = ["read_schema", "schema_grammar"]

_MAX_BYTES = 10_000_000


def read_schema(given: str) -> str:
    """The schema that `given` is, where it begins with a brace, or the file that it names.

    Raises:
        InputError: there is no such file.
        UsageError: it is no JSON schema, or uses what cannot be guaranteed.
    """
    if not given.strip():
        raise UsageError("--schema is empty; give a JSON schema or a file that holds one")
    if given.lstrip().startswith("{"):
        text, name = given, "--schema"
    else:
        data = read_bytes(Path(given).expanduser(), _MAX_BYTES, "a file with a JSON schema")
        text, name = data.decode("utf-8-sig", "replace"), given
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name} is no JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise UsageError(f"{name} is no JSON schema: it has to be an object, such as {{...}}")
    is_wrong, problems = LLMatcher.validate_grammar_with_warnings(schema_grammar(text))
    if is_wrong:
        reason = " ".join(" ".join(problems).split())
        raise UsageError(f"{name} cannot be guaranteed: {reason}; leave that out of the schema")
    return text


def schema_grammar(schema: str) -> str:
    """The grammar of all JSON values that match `schema`, in one spacing.

    One blank stands after a comma and a colon and none elsewhere: a model that may write blanks
    may write nothing but blanks. Keywords that are not known to the library stay errors.
    """
    return LLMatcher.grammar_from_json_schema(
        schema,
        overrides={
            "whitespace_flexible": False,
            "item_separator": ", ",
            "key_separator": ": ",
            "lenient": False,
            "coerce_one_of": False,
        },
    )
