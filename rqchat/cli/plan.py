"""`rqchat plan`: what would fit, before anything is downloaded or loaded."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from rqchat.cli import options

__all__ = ["plan"]


@options.taking(options.MODEL)
def plan(
    vram: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Plan for a card of this size, such as 24GiB or 16GB."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", metavar=options.NO_VALUE, help="One JSON object.")
    ] = False,
    *,
    given: options.Given,
) -> None:
    """Show which weights, KV bits and context fit, and which rqchat would take.

    rqchat plan --vram 24GiB

    rqchat plan --model google/gemma-4-E4B-it --context 32768
    """
    from rqchat.engine.hardware import choose_device, find_devices, planned_card
    from rqchat.engine.models import resolve_model
    from rqchat.engine.plan import make_plan
    from rqchat.engine.settings import parse_size_bytes
    from rqchat.ui.console import Screen
    from rqchat.ui.tables import plan_table

    settings = given.settings(vram_bytes=parse_size_bytes(vram) if vram is not None else None)
    if settings.vram_bytes is not None:
        target = planned_card(settings.vram_bytes)
    else:
        target = choose_device(settings, find_devices())
    source = resolve_model(settings, has_gpu=target.is_gpu)
    made = make_plan(source.shape, target, settings)
    screen = Screen()
    if as_json:
        screen.answer(json.dumps(made.as_json(source.name)) + "\n")
    else:
        screen.table(plan_table(made, source.name))
