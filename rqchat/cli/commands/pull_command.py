"""`rqchat pull`: a model's files, downloaded ahead and verified."""

from __future__ import annotations

from typing import Annotated

import typer

from rqchat.cli import options
from rqchat.cli.commands.plan_command import Vram, find_model_and_device, make_memory_plan

__all__ = ["pull"]


@options.accepts({name: options.MODEL[name] for name in ("weights", "kv_bits", "offline")})
def pull(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="31b, 12b, ..., or a hub id; else what fits here."),
    ] = None,
    vram: Vram = None,
    tokenizer: Annotated[
        bool,
        typer.Option("--tokenizer", help="Only the small files, without weights."),
    ] = False,
    quiet: options.Quiet = False,
    *,
    given: options.GivenOptions,
) -> None:
    """Download a model ahead, verify every file, and show where it is.

    Goes on where a cut download stopped. Without --weights, those that fit this machine; with it,
    whether they fit or not.

    rqchat pull google/gemma-4-31B-it --weights int4
    """
    from rqchat.engine.model_files.fetch import pull_model
    from rqchat.engine.settings import parse_size_bytes
    from rqchat.engine.sizes import format_bytes
    from rqchat.errors import UsageError
    from rqchat.ui.console import Screen
    from rqchat.ui.stream import AnswerView

    size = parse_size_bytes(vram) if vram is not None else None
    settings = given.settings(vram_bytes=size, **({"model": model} if model else {}))
    if settings.offline:
        raise UsageError("pull downloads, and --offline forbids it; leave one of them out")
    source, _ = find_model_and_device(settings)
    screen = Screen(quiet=quiet)
    if source.folder is not None:
        screen.note(f"{source.name} lies in {source.folder}: nothing to download")
        return
    weights = settings.weights
    # The small files are the same for all weights, so they need no plan
    if not weights and not tokenizer:
        weights = make_memory_plan(settings)[1].chosen.weights
    view = AnswerView(screen)
    try:
        pulled = pull_model(source, weights=weights, small=tokenizer, on_event=view.show)
    finally:
        view.close()
    screen.note(
        f"{pulled.files} files, {format_bytes(pulled.size_bytes)}, verified;"
        f" {format_bytes(pulled.downloaded_bytes)} of them downloaded now"
    )
    screen.answer(f"{pulled.folder}\n")
