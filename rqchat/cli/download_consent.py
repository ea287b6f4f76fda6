"""Asks once before a model is downloaded, so that nobody gets 20 GiB unasked."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from rqchat.engine.settings import Settings
from rqchat.errors import ModelError, RqchatError
from rqchat.ui.console import Screen, is_terminal

if TYPE_CHECKING:
    from rqchat.engine.model_files.resolve import ModelSource
    from rqchat.engine.planning.plan import MemoryPlan

__all__ = ["check_model_is_here", "with_consent"]

_LINE_BYTES_PER_S = 12_500_000  # 100 Mbit/s, to give a size a feeling
_APACHE = "is Apache-2.0"  # Google's for Gemma 4 (ai.google.dev/edge/litert-lm/models/gemma-4)
_UNKNOWN_LICENSE = "stands on its page of the hub"


def with_consent(settings: Settings, screen: Screen) -> Settings:
    """`settings` with leave to download, where the user gives it; the same if nothing is missing.

    Raises:
        ModelError: the user declines, or there is no terminal to ask at.
    """
    if settings.remote is not None:
        return settings
    from rqchat.engine.model_files.fetch import bytes_to_download
    from rqchat.engine.model_files.resolve import POCKET, model_folder
    from rqchat.engine.planning.known_models import known_model
    from rqchat.engine.sizes import format_bytes
    from rqchat.ui.text import format_seconds

    planned = None if settings.model == POCKET else _plan(settings)
    if planned is None:
        return settings
    source, plan = planned
    size = bytes_to_download(source, plan.chosen.weights)
    if not size:
        return settings
    screen.note(plan.reason.partition("\n")[0])
    screen.note(
        f"{source.name} is not on this machine: {format_bytes(size)} into"
        f" {model_folder(source.name, plan.chosen.weights)}, about"
        f" {format_seconds(size / _LINE_BYTES_PER_S)} at 100 Mbit/s; its licence"
        f" {_APACHE if known_model(source.name) else _UNKNOWN_LICENSE}"
    )
    if not (is_terminal("stdin") and is_terminal("stderr")):
        raise ModelError(
            f"nobody is there to ask; give --yes, or download it with 'rqchat pull {source.name}';"
            f" --model {POCKET} answers without"
        )
    if not _is_yes("Download it now? [y/N] "):
        raise ModelError(f"nothing was downloaded; --model {POCKET} answers without")
    return replace(settings, may_download=True)


def check_model_is_here(settings: Settings) -> None:
    """Nothing where opening the model would download nothing, or has leave to.

    Raises:
        ModelError: it would.
    """
    from rqchat.engine.model_files.fetch import check_that_it_is_here

    planned = None if settings.remote else _plan(settings)
    if planned is not None:
        source, plan = planned
        check_that_it_is_here(source, plan.chosen.weights)


def _plan(settings: Settings) -> tuple[ModelSource, MemoryPlan] | None:
    """The model and the plan that opening it would take; None where there is nothing to ask."""
    from rqchat.engine.model_files.resolve import resolve_model
    from rqchat.engine.planning.devices import device_for
    from rqchat.engine.planning.plan import make_plan

    if settings.may_download or settings.offline:
        return None
    try:
        device = device_for(settings)
        source = resolve_model(settings, device)
        return source, make_plan(source.shape, device, settings, source.formats)
    except RqchatError:  # which is told where the model is opened
        return None


def _is_yes(question: str) -> bool:
    sys.stderr.write(question)
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
