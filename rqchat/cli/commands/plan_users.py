"""`rqchat plan --users`: the way out of one machine, with an engine that exists."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from rqchat.errors import DoesNotFitError, UsageError

if TYPE_CHECKING:
    from rqchat.engine.outgrown.vllm_memory import Cards, Demand
    from rqchat.engine.settings import Settings
    from rqchat.ui.console import Screen

__all__ = ["show_users_plan"]

_MODEL = "google/gemma-4-31B-it"  # nobody looks for something smaller than one card takes


def show_users_plan(settings: Settings, users: int, screen: Screen, *, as_json: bool) -> None:
    """Says which cards `users` need at the same time, and how vLLM is started on them.

    Raises:
        UsageError: weights, KV bits or a context that there are not.
        DoesNotFitError: no cards do.
    """
    from rqchat.engine.outgrown.vllm_command import commands
    from rqchat.engine.outgrown.vllm_memory import COMMON_CARDS, cards_for
    from rqchat.ui.memory_plan.users_table import card_title, users_table
    from rqchat.ui.text import format_count

    model, demand = _demand(settings, users)
    sizes = (settings.vram_bytes,) if settings.vram_bytes else COMMON_CARDS
    ways = [way for size in sizes if (way := cards_for(demand, size)) is not None]
    if not ways:
        raise DoesNotFitError(
            f"no number of such cards holds {model} and one user; take larger ones"
        )
    taken = min(ways, key=lambda way: (way.replicas * way.stages, way.count * way.card_bytes))
    lines = list(commands(model, demand, taken))
    if as_json:
        screen.answer(json.dumps(_record(model, demand, ways, taken, lines)) + "\n")
        return
    screen.note(
        f"{model} in {demand.weights} for {format_count(users)} at once, each with"
        f" {format_count(demand.context_tokens)} tokens, in vLLM (bytes per card, reckoned):",
        "name",
    )
    screen.table(users_table(ways, taken))
    screen.note("Fewer bytes: --weights int8 or int4, --kv-bits 8, a shorter --context.")
    screen.note(f"On {taken.count} cards of {card_title(taken)}:")
    screen.answer("\n".join(lines) + "\n")


def _demand(settings: Settings, users: int) -> tuple[str, Demand]:
    from rqchat.engine.model_files.resolve import resolve_model
    from rqchat.engine.outgrown.vllm_command import KV_BYTES, WEIGHT_BYTES, served_name
    from rqchat.engine.outgrown.vllm_memory import Demand
    from rqchat.engine.planning.devices import planned_card
    from rqchat.engine.planning.known_models import full_name, known_model
    from rqchat.engine.planning.shape import ModelShape

    name = full_name(_MODEL if settings.model == "auto" else settings.model)
    known = known_model(name)
    if known is not None:
        shape = ModelShape.from_config(known.config)
    else:
        shape = resolve_model(settings, planned_card(settings.vram_bytes or 2**40)).shape
    weights = settings.weights or "bf16"
    if weights not in WEIGHT_BYTES or settings.kv_bits not in KV_BYTES:
        raise UsageError(
            f"vLLM has --weights {', '.join(WEIGHT_BYTES)} (int8 as fp8) and --kv-bits 16 or 8"
            " (fp8) for this model"
        )
    context = settings.context_tokens or shape.max_context_tokens
    if context > shape.max_context_tokens:
        raise UsageError(
            f"--context is {context:,}; this model knows sequences of at most"
            f" {shape.max_context_tokens:,} tokens: ask for that or fewer"
        )
    served_name(name, weights)
    return name, Demand(shape, weights, KV_BYTES[settings.kv_bits], users, context)


def _record(
    model: str, demand: Demand, ways: list[Cards], taken: Cards, lines: list[str]
) -> dict[str, object]:
    asked = {name: getattr(demand, name) for name in ("weights", "users", "context_tokens")}
    listed = [{**asdict(way), "count": way.count} for way in ways]
    return {"model": model, **asked, "ways": listed, "taken": ways.index(taken), "commands": lines}
