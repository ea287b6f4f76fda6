"""/model and /plan: which model, and how it fits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from rqchat.cli import app_folders
from rqchat.cli.chat.chat import Chat
from rqchat.cli.chat.slash.registry import Command
from rqchat.cli.download_consent import check_model_is_here
from rqchat.engine.model_files.resolve import POCKET
from rqchat.engine.planning.alternatives import alternatives
from rqchat.engine.planning.known_models import known_models as published
from rqchat.errors import UsageError
from rqchat.ui.memory_plan.plan_view import PlanView

__all__ = ["COMMANDS", "known_models"]


def known_models() -> Iterable[tuple[str, str]]:
    """The models of this machine: names for `--model`, and where they lie."""
    yield POCKET, "in the package"
    for model in published():
        yield model.short_name, model.name
    for folder in sorted(app_folders.model_cache_folder().glob("models--*--*")):
        yield folder.name.removeprefix("models--").replace("--", "/"), "downloaded"


def _model(chat: Chat, argument: str) -> None:
    if not argument:
        chat.say(f"{chat.session().model_name}; /model NAME switches, Tab shows what is here")
        return
    settings = replace(chat.model.settings, model=argument)
    check_model_is_here(settings)  # before the present one goes
    chat.model.switch(settings)


def _plan(chat: Chat, argument: str) -> None:
    session = chat.session()
    if session.plan is None:
        raise UsageError(f"{session.model_name} runs at a server, which plans its own memory")
    ways = alternatives(session.plan, session.model_name)
    chat.show(PlanView(session.plan, session.model_name, ways))


COMMANDS = (
    Command(
        "/model",
        "[NAME]",
        "show the model, or go on with another",
        _model,
        lambda typed: known_models(),
    ),
    Command("/plan", "", "what fits this device, and why this was chosen", _plan),
)
