"""Tools: what a request declares, which of them have to be called, and calls that were forced.

A call that has to come is held to a schema like any other JSON; one that the model makes of its
own accord comes in Gemma's own form (`engine/tool_calls.py`).
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from rqchat.engine.conversation import ToolCall
from rqchat.engine.generation.json_schema import check_schema
from rqchat.errors import UsageError

__all__ = ["call_of_json", "forced_schema", "forced_tool", "named_tools", "new_call_id"]

_NAME = re.compile(r"[\w.:/-]{1,128}")
_ANY_OBJECT = {"type": "object"}


def named_tools(given: Sequence[Any]) -> tuple[Mapping[str, Any], ...]:
    """The functions among `given`, each as `{"type": "function", "function": {...}}`.

    Raises:
        UsageError: one has no usable name or parameters.
    """
    return tuple(_tool(each) for each in given)


def _tool(given: Any) -> Mapping[str, Any]:
    inner = given.get("function") if isinstance(given, dict) else None
    function: dict[str, Any] = inner if isinstance(inner, dict) else {}
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError(
            f"a tool is {given!r:.80}; it has to be a function with a name of letters, digits, _,"
            " -, . and at most 128 characters"
        )
    parameters = function.get("parameters") or _ANY_OBJECT
    if not isinstance(parameters, dict):
        raise UsageError(f"the parameters of {name} are {parameters!r:.80}, no JSON schema")
    description = function.get("description") or ""
    if not isinstance(description, str):
        raise UsageError(f"the description of {name} is {description!r:.80}, no string")
    kept = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": kept}


def forced_tool(
    tools: Sequence[Mapping[str, Any]], name: str | None
) -> tuple[Mapping[str, Any], ...]:
    """The tools of which one has to be called: that of this name, or all.

    Raises:
        UsageError: there is none.
    """
    found = tuple(tool for tool in tools if name is None or tool["function"]["name"] == name)
    if not found:
        raise UsageError(f"tool_choice asks for {name or 'a tool'!r}, which is not among the tools")
    return found


def forced_schema(tools: Sequence[Mapping[str, Any]]) -> str:
    """What a call of one of `tools` has to match.

    Raises:
        UsageError: the parameters of one cannot be guaranteed.
    """
    forms = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool["function"]["name"]},
                "arguments": tool["function"]["parameters"],
            },
            "required": ["name", "arguments"],
        }
        for tool in tools
    ]
    schema = forms[0] if len(forms) == 1 else {"anyOf": forms}
    return check_schema(json.dumps(schema), "tools")


def call_of_json(text: str) -> ToolCall | None:
    """The call that an answer matching `forced_schema` is; None where it was cut short."""
    try:
        found = json.loads(text)
        return ToolCall(found["name"], found["arguments"], new_call_id())
    except (ValueError, KeyError, TypeError):
        return None


def new_call_id() -> str:
    """A name for a call, by which its result comes back."""
    return f"call_{uuid.uuid4().hex[:24]}"
