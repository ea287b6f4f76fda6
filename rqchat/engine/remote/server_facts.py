"""What a server says of itself: its models, and how long their context is. No torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rqchat.engine.events import Event, LoadProgress
from rqchat.engine.planning.known_models import full_name
from rqchat.engine.remote.connection import Connection, ServerError
from rqchat.errors import ModelError

__all__ = ["ServedModel", "find_model"]

_NOT_THERE = (404, 405, 501)
_STILL_LOADING, _ASK_AGAIN_S, _LOADING_S = 503, 1.0, 1800.0
_MODELS_NAMED = 12


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model at a server.

    Attributes:
        name: what the server calls it.
        context_tokens: what its context holds; 0 where the server does not say.
        sees_pictures: None where the server does not say.
    """

    name: str
    context_tokens: int = 0
    sees_pictures: bool | None = None


def find_model(
    connection: Connection, wanted: str, on_event: Callable[[Event], None]
) -> ServedModel:
    """The model called `wanted`, or the only one where that is empty; waits while it loads.

    Raises:
        ModelError: there is no such model, or there are several and none is named.
        ServerError: the server cannot be reached.
    """
    host = connection.address.host
    listed = list(_models(connection, on_event))
    if not listed:
        if wanted:
            return ServedModel(wanted)  # some servers have no list
        raise ModelError(f"{host} lists no models; name one with --model")
    if not wanted:
        if len(listed) == 1:
            return _facts(listed[0])
        raise ModelError(f"{host} has several models; take one with --model: {_names(listed)}")
    names = (wanted, full_name(wanted))
    for model in listed:
        if any(each in names for each in (model["id"], *_aliases(model))):
            return _facts(model)
    for model in listed:  # as people write it
        if _last(model["id"]) in map(_last, names):
            return _facts(model)
    raise ModelError(f"{host} has no model {wanted!r}; it has {_names(listed)}")


def _models(
    connection: Connection, on_event: Callable[[Event], None]
) -> Iterator[Mapping[str, Any]]:
    ends_s = time.monotonic() + _LOADING_S
    while True:
        try:
            answer = connection.get("/models")
            break
        except ServerError as error:
            if error.status in _NOT_THERE:
                return
            if error.status != _STILL_LOADING or time.monotonic() > ends_s:
                raise
        on_event(LoadProgress(f"{connection.address.host} is loading its model", 0, 0))
        time.sleep(_ASK_AGAIN_S)
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, list):
        raise ServerError(
            f"{connection.address.url}/models is no list of models; is that the base URL of an"
            " OpenAI-compatible server, such as http://localhost:8000/v1?"
        )
    for entry in data:
        if isinstance(entry, dict) and isinstance(entry.get("id"), str):
            yield entry


def _aliases(model: Mapping[str, Any]) -> list[Any]:
    found = model.get("aliases")
    return found if isinstance(found, list) else []


def _facts(model: Mapping[str, Any]) -> ServedModel:
    """vLLM and SGLang say `max_model_len`, llama.cpp `meta.n_ctx`, others `context_length`."""
    meta = model.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    said = (
        *(model.get("max_model_len"), meta.get("n_ctx")),
        *(model.get("context_length"), model.get("context_window")),
    )
    lengths = [each for each in said if type(each) is int and each > 0]
    built = model.get("architecture")
    inputs = built.get("input_modalities") if isinstance(built, dict) else None
    sees = "image" in inputs if isinstance(inputs, list) else None
    return ServedModel(model["id"], lengths[0] if lengths else 0, sees)


def _last(name: str) -> str:
    return name.rpartition("/")[2].lower()


def _names(listed: list[Mapping[str, Any]]) -> str:
    names = ", ".join(str(model["id"]) for model in listed[:_MODELS_NAMED])
    more = len(listed) - _MODELS_NAMED
    return f"{names} and {more} more" if more > 0 else names
