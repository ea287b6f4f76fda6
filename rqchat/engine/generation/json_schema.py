"""JSON schemas that an answer has to match, turned into grammars by llguidance. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llguidance import LLMatcher

from rqchat.engine.foreign import border, cause_of
from rqchat.engine.inputs.documents import read_bytes
from rqchat.errors import UsageError

__all__ = ["check_schema", "read_schema", "schema_grammar"]

_MAX_BYTES = 10_000_000
_MAX_INTEGER = 2**53 - 1
_MAX_DIGITS = 4000  # of a number that Python converts; zeros may stand in front
_MAX_OBJECTS = 10_000  # the library's time grows with their square: 4 s for so many properties
_MAPS = ("properties", "$defs", "definitions", "patternProperties")
_LISTS = ("anyOf", "oneOf", "prefixItems")
_ONE_OF = ("anyOf", "oneOf", "$ref")
_ALL_OF = ("allOf", "not", "if", "dependentSchemas", "unevaluatedProperties")
# An integer with one of these has bounds of its own.
_LIMITS = (
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "enum",
    "const",
)


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
        # What some editors put in front, a byte order mark, is no JSON.
        text, name = data.decode("utf-8-sig", "replace"), given
    return check_schema(text, name)


def check_schema(text: str, name: str) -> str:
    """`text`, a JSON schema; `name` is what errors call it.

    Raises:
        UsageError: it is no JSON schema, or uses what cannot be guaranteed.
    """
    with border(lambda cause: UsageError(f"{name} is no JSON: {cause}")):
        parsed = json.loads(text, parse_int=_integer)
        if not isinstance(parsed, dict):
            raise UsageError(f"{name} is no JSON schema: it has to be an object, such as {{...}}")
        if (objects := _objects(parsed)) > _MAX_OBJECTS:
            raise UsageError(
                f"{name} has {objects:,} objects; at most {_MAX_OBJECTS:,} are compiled in seconds:"
                " leave some out, or ask for the parts one by one"
            )
        grammar = schema_grammar(text)
    with border(lambda cause: UsageError(f"{name} cannot be guaranteed: {cause}; make it simpler")):
        is_wrong, problems = LLMatcher.validate_grammar_with_warnings(grammar)
    if is_wrong:
        reason = cause_of(ValueError(" ".join(problems)))
        raise UsageError(f"{name} cannot be guaranteed: {reason}; leave that out of the schema")
    return text


def _integer(digits: str) -> int:
    """As the library reads it: as a double (RFC 8259, section 6)."""
    if len(digits) > _MAX_DIGITS or abs(int(digits)) > _MAX_INTEGER:
        raise UsageError(
            f"--schema has {digits:.40}: integers beyond {_MAX_INTEGER} cannot be guaranteed; write"
            " them as strings"
        )
    return int(digits)


def schema_grammar(schema: str) -> str:
    """The grammar of JSON values that match `schema`, in one spacing, and end.

    One blank stands after a comma and a colon and none elsewhere: a model that may write blanks
    may write nothing but blanks. For the same reason an object has no properties but those that
    are listed, where some are, and an integer is one that programs can hold (RFC 8259, section 6),
    unless the schema says otherwise. Keywords that are not known to the library stay errors.
    """
    parsed = json.loads(schema)
    return LLMatcher.grammar_from_json_schema(
        json.dumps(_narrowed(parsed, closes=not _composes(parsed))),
        overrides={
            "whitespace_flexible": False,
            "item_separator": ", ",
            "key_separator": ": ",
            "lenient": False,
            "coerce_one_of": False,
        },
    )


def _objects(node: Any) -> int:
    """How many objects there are in `node`, itself included."""
    below = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return isinstance(node, dict) + sum(map(_objects, below))


def _composes(node: Any) -> bool:
    """Whether an object may have to match two schemas, so that neither may be closed."""
    if isinstance(node, list):
        return any(map(_composes, node))
    if not isinstance(node, dict):
        return False
    joined = "properties" in node and not node.keys().isdisjoint(_ONE_OF)
    return joined or not node.keys().isdisjoint(_ALL_OF) or any(map(_composes, node.values()))


def _narrowed(node: Any, *, closes: bool) -> Any:
    """`node`, a schema, with what `schema_grammar` adds to it; objects only where `closes`."""
    if not isinstance(node, dict):
        return node
    narrowed = dict(node)
    for key, value in node.items():
        if key in _MAPS and isinstance(value, dict):
            narrowed[key] = {name: _narrowed(below, closes=closes) for name, below in value.items()}
        elif key in _LISTS and isinstance(value, list):
            narrowed[key] = [_narrowed(below, closes=closes) for below in value]
        elif key == "items":
            narrowed[key] = _narrowed(value, closes=closes)
    if closes and "patternProperties" not in node and _lists_all(node):
        narrowed.setdefault("additionalProperties", False)
    if node.get("type") == "integer" and node.keys().isdisjoint(_LIMITS):
        narrowed |= {"minimum": -_MAX_INTEGER, "maximum": _MAX_INTEGER}
    return narrowed


def _lists_all(node: dict[str, Any]) -> bool:
    """Whether an object's properties are listed, those that are required among them."""
    listed, required = node.get("properties"), node.get("required", [])
    if not isinstance(listed, dict) or not isinstance(required, list):
        return False  # which is said later
    return bool(listed) and all(isinstance(name, str) and name in listed for name in required)
