"""`rqchat plan`: what would fit, before anything is downloaded or loaded."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from rqchat.cli import options

if TYPE_CHECKING:
    from rqchat.engine.model_files.resolve import ModelSource
    from rqchat.engine.planning.gpus import DeviceInfo
    from rqchat.engine.planning.plan import MemoryPlan
    from rqchat.engine.settings import Settings
    from rqchat.ui.console import Renderable, Screen

__all__ = ["Vram", "find_model_and_device", "make_memory_plan", "plan"]

_ELSEWHERE = (
    "that context is not reached here; rqchat plan --users 1 --context {} says which cards another"
    " engine needs for it"
)
Vram = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="Plan for a card of this size, such as 24GiB or 16GB."),
]


@options.accepts(options.MODEL)
def plan(
    vram: Vram = None,
    bandwidth: Annotated[
        int | None,
        typer.Option(
            metavar="GB/s", min=1, help="How fast that card's memory is, such as 1008, for tok/s."
        ),
    ] = None,
    doc: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE|URL",
            help="Count its tokens, as `ask -f` reads it, and say whether it fits; repeatable.",
        ),
    ] = None,
    pages: options.Pages = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every way that fits, with where its bytes go.")
    ] = False,
    users: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Which cards vLLM needs for so many at once, and its command."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    *,
    given: options.GivenOptions,
) -> None:
    """Show which weights, KV bits and context fit, and which rqchat would take.

    rqchat plan --vram 24GiB

    rqchat plan --model google/gemma-4-E4B-it --context 32768 --doc book.txt

    rqchat plan --users 20 --context 128K
    """
    from rqchat.cli.commands.plan_users import show_users_plan
    from rqchat.engine.planning.gpus import gpu_troubles
    from rqchat.engine.planning.plan import with_page_budget
    from rqchat.ui.console import Screen

    settings = given.settings(vram_bytes=size_of(vram))
    if users is not None:
        show_users_plan(settings, users, Screen(), as_json=as_json)
        return
    source, memory_plan = make_memory_plan(settings, (bandwidth or 0) * 10**9)
    screen = Screen()
    if settings.vram_bytes is None and not memory_plan.device.is_gpu:
        for trouble in gpu_troubles():
            screen.warning(f"{trouble.detail}: {trouble.remedy}")
    if as_json:
        screen.answer(json.dumps(memory_plan.as_json(source.name)) + "\n")
    else:
        screen.table(_drawn_plan(source, memory_plan, every=every))
        if settings.context_tokens and memory_plan.chosen.context_tokens < memory_plan.asked_tokens:
            screen.note(_ELSEWHERE.format(settings.context_tokens))
    if doc:
        planned = with_page_budget(memory_plan, source.shape, settings, source.formats)
        _measure(doc, pages, source, planned, screen, offline=settings.offline)


def _drawn_plan(source: ModelSource, memory_plan: MemoryPlan, *, every: bool) -> Renderable:
    """Every way that fits, or the few that differ in something a person wants."""
    from rqchat.engine.model_files.resolve import ModelSource
    from rqchat.engine.planning.alternatives import alternatives
    from rqchat.engine.planning.known_models import known_model
    from rqchat.ui.memory_plan.plan_table import plan_table
    from rqchat.ui.memory_plan.plan_view import PlanView

    if every:
        sizes = {c.weights: source.download_bytes(c.weights) for c in memory_plan.candidates}
        return plan_table(memory_plan, source.name, sizes)
    ways = alternatives(memory_plan, source.name)
    downloads = {}
    for way in ways:
        other = known_model(way.hub_name)
        owner = ModelSource(other.name, dict(other.config), None) if other else source
        weights = way.candidate.weights
        downloads[owner.name, weights] = owner.download_bytes(weights)
    return PlanView(memory_plan, source.name, ways, downloads)


def make_memory_plan(settings: Settings, bandwidth: int = 0) -> tuple[ModelSource, MemoryPlan]:
    """The model that `settings` name, and its plan for their card or for this machine's device.

    `bandwidth` is of the device's memory, in bytes per second; 0 is what is known of it.

    Raises:
        RqchatError: no such model or device, or it does not fit.
    """
    from rqchat.engine.planning.plan import make_plan

    source, target = find_model_and_device(settings)
    if bandwidth:
        target = replace(target, bandwidth=bandwidth, stands_for="")
    return source, make_plan(source.shape, target, settings, source.formats)


def find_model_and_device(settings: Settings) -> tuple[ModelSource, DeviceInfo]:
    """The model and the device that `settings` name, whether they suit each other or not.

    Raises:
        RqchatError: no such model or device.
    """
    from rqchat.engine.model_files.resolve import resolve_model

    target = target_of(settings)
    return resolve_model(settings, target), target


def target_of(settings: Settings) -> DeviceInfo:
    """The device of this machine that `settings` name, or the card that they pretend.

    Raises:
        UsageError: no such device.
    """
    from rqchat.engine.planning.devices import choose_device, find_devices, planned_card

    if settings.vram_bytes is not None:
        return planned_card(settings.vram_bytes)
    return choose_device(settings, find_devices())


def size_of(vram: str | None) -> int | None:
    """The bytes that `--vram` says; None where it was not given."""
    from rqchat.engine.settings import parse_size_bytes

    return parse_size_bytes(vram) if vram is not None else None


def _measure(
    names: list[str],
    pages: str | None,
    source: ModelSource,
    memory_plan: MemoryPlan,
    screen: Screen,
    *,
    offline: bool,
) -> None:
    """Says how many tokens the documents have; with exit code 4 where they do not fit."""
    from rqchat.engine.inputs.pdf import PageRanges, check_pages_used
    from rqchat.engine.inputs.references import ReferenceReader
    from rqchat.engine.measure.document_tokens import check_context, count_tokens
    from rqchat.ui.input_events import show_input_event
    from rqchat.ui.text import format_count

    ranges = PageRanges.parse(pages) if pages is not None else None
    reader = ReferenceReader(partial(show_input_event, screen), offline=offline, pages=ranges)
    items = [each for name in names for each in reader.read(name)]
    if ranges is not None:
        check_pages_used(ranges, items)
    counts = count_tokens(items, source, memory_plan)
    for item, count in zip(items, counts, strict=True):
        screen.note(f"{item.name}: {format_count(count)} tokens", style="name")
    left = check_context(sum(counts), memory_plan)
    screen.note(f"fits, with {format_count(left)} tokens left for questions and answers", "good")
