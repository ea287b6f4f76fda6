"""Errors as the protocols have them: a status and a body."""

from __future__ import annotations

from typing import Any, Literal

from rqchat.engine.serving.work_queue import BusyError
from rqchat.errors import ContextLengthError, InputError, RqchatError, UsageError

__all__ = ["HttpError", "Style", "error_body", "status_of"]

Style = Literal["openai", "anthropic"]
_TYPES: dict[Style, dict[int, str]] = {
    "openai": {401: "authentication_error", 403: "permission_error", 404: "not_found_error"},
    "anthropic": {
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        413: "request_too_large",
        503: "overloaded_error",
    },
}
_FAULT = 500


class HttpError(RqchatError):
    """A request that is refused before it reaches the model."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def status_of(error: BaseException) -> int:
    """The HTTP status that `error` is sent with."""
    if isinstance(error, HttpError):
        return error.status
    if isinstance(error, BusyError):
        return 503
    return 400 if isinstance(error, UsageError | InputError | ContextLengthError) else _FAULT


def error_body(error: BaseException, style: Style) -> dict[str, Any]:
    """The body that `error` is sent as; what is no error of ours says nothing of this machine."""
    status = status_of(error)
    known = isinstance(error, RqchatError)
    message = _said(error) if known else f"the server failed ({type(error).__name__})"
    kind = _TYPES[style].get(status, "api_error" if status >= _FAULT else "invalid_request_error")
    if style == "anthropic":
        return {"type": "error", "error": {"type": kind, "message": message}}
    body: dict[str, Any] = {"message": message, "type": kind, "param": None, "code": status}
    if isinstance(error, ContextLengthError):
        body |= {
            "code": "context_length_exceeded",
            "param": "messages",
            "n_prompt_tokens": error.input_tokens,
            "n_ctx": error.context_tokens,
        }
    return {"error": body}


def _said(error: BaseException) -> str:
    if not isinstance(error, ContextLengthError):
        return str(error)
    # litellm and others know a prompt that is too long by the first sentence alone, those that
    # speak Anthropic's protocol by "prompt is too long".
    return (
        f"This model's maximum context length is {error.context_tokens} tokens, answers included."
        f" However, the prompt is too long: {error.input_tokens} tokens >"
        f" {error.context_tokens} maximum. Nothing was cut; shorten the messages."
    )
