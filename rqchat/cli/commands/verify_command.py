"""`rqchat verify` and `rqchat calibrate`: what packing costs a model, and how it costs less."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from rqchat.cli import options

if TYPE_CHECKING:
    from collections.abc import Callable

    from rqchat.engine.events import Event
    from rqchat.ui.console import Screen

__all__ = ["calibrate", "verify"]

_LEAST, _MOST = 1024, 1_000_000

File = Annotated[
    str | None,
    typer.Option(
        "--file",
        "-f",
        metavar="FILE",
        help="A text like those that will be read; without it the help of Python, or what the model"
        " writes itself.",
    ),
]
Tokens = Annotated[
    int, typer.Option(metavar="N", min=_LEAST, max=_MOST, help="Most tokens of it to read.")
]


@options.accepts(options.MODEL)
def verify(
    file: File = None,
    tokens: Tokens = 4096,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    *,
    given: options.GivenOptions,
) -> None:
    """Measure what the planned KV cache costs your model, against an exact one.

    rqchat verify --file book.txt --kv-bits 3
    """
    from rqchat.engine.measure.kv_fidelity import verify_model
    from rqchat.ui.console import Screen
    from rqchat.ui.fidelity_table import fidelity_table

    screen = Screen(quiet=as_json)
    found = verify_model(given.settings(), _text(file), tokens, _listener(screen))
    if as_json:
        screen.answer(json.dumps(found.as_json()) + "\n")
    else:
        screen.table(fidelity_table(found))
        screen.answer(found.verdict + "\n")


@options.accepts(options.MODEL)
def calibrate(
    file: File = None,
    tokens: Tokens = 8192,
    *,
    given: options.GivenOptions,
) -> None:
    """Let rqchat get to know a model, so that its packed KV cache loses less.

    Written once beside the weights, and used from then on. The pocket model brings its own.
    """
    from rqchat.engine.measure.kv_fidelity import calibrate_model
    from rqchat.ui.console import Screen

    screen = Screen()
    path = calibrate_model(given.settings(), _text(file), tokens, _listener(screen))
    screen.answer(f"{path}\n")


def _text(file: str | None) -> str | None:
    from rqchat.engine.inputs.documents import read_document

    return None if file is None else read_document(file).text


def _listener(screen: Screen) -> Callable[[Event], None]:
    from rqchat.engine.events import Notice

    def listen(event: Event) -> None:
        if isinstance(event, Notice):
            screen.note(event.text)

    return listen
