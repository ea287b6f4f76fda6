"""From settings to a loaded model and an empty cache: device, source, plan, load."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import torch

from rotorquant import RotorQuantCache, RotorQuantError
from rqchat.engine.events import Event, Notice
from rqchat.engine.foreign import border
from rqchat.engine.loading.loader import LoadedModel, load_model
from rqchat.engine.loading.memory_in_use import release_unused
from rqchat.engine.model_files.fetch import check_that_it_is_here
from rqchat.engine.model_files.resolve import POCKET, ModelSource, resolve_model
from rqchat.engine.planning.automatic import fitting_models
from rqchat.engine.planning.devices import cpu_device, device_for
from rqchat.engine.planning.gpus import gpu_troubles
from rqchat.engine.planning.memory import (
    GPU_CONTEXT_BYTES,
    LEFT_FREE_BYTES,
    RECENT_TOKENS,
    SINK_TOKENS,
)
from rqchat.engine.planning.plan import MemoryPlan, make_plan, with_page_budget
from rqchat.engine.settings import (
    DEFAULT_IMAGE_TOKENS,
    Settings,
    compiled_kernels_folder,
    order_gpus_by_bus,
)
from rqchat.engine.sizes import format_bytes
from rqchat.errors import ModelError

__all__ = ["OpenedModel", "limit_gpu_memory", "make_cache", "open_model"]


class OpenedModel(NamedTuple):
    """A model as it was planned and loaded, and what `--json` calls it."""

    loaded: LoadedModel
    plan: MemoryPlan
    name: str


def open_model(settings: Settings, on_event: Callable[[Event], None]) -> OpenedModel:
    """Plans and loads; `on_event` gets `Notice` and `LoadProgress`.

    Raises:
        RqchatError: no such model or device, or it does not fit.
    """
    # A model that was open before must be gone, or the device would look full
    release_unused()
    device = device_for(settings)
    source = resolve_model(settings, device)
    plan = make_plan(source.shape, device, settings, source.formats)
    if not device.is_gpu and settings.device == "auto":
        for trouble in gpu_troubles():
            on_event(Notice(f"{trouble.detail}: {trouble.remedy}"))
    if settings.model == "auto":
        on_event(Notice(_why(source, plan, settings)))
    if not settings.may_download and not settings.offline:
        check_that_it_is_here(source, plan.chosen.weights)
    if settings.context_tokens and plan.chosen.context_tokens < settings.context_tokens:
        on_event(Notice(plan.reason))
    plan = with_page_budget(plan, source.shape, settings, source.formats)
    limit_gpu_memory(plan)
    if plan.device.has_kernels and not _has_compiled():
        on_event(
            Notice(
                "the first answer waits for some 30 GPU kernels to be compiled, about half"
                f" a minute; later starts find them in {compiled_kernels_folder()}"
            )
        )
    loaded = load_model(source, plan, on_event, offline=settings.offline)
    # The model's own budget is known by its image processor alone
    if settings.image_tokens is None:
        own = loaded.image_processor.max_soft_tokens
        # One that is not Google's was trained with that many, and reads no others
        pages = plan.page_tokens if own == DEFAULT_IMAGE_TOKENS else 0
        plan = dataclasses.replace(plan, image_tokens=own, page_tokens=pages)
    return OpenedModel(loaded, plan, source.name)


def _has_compiled() -> bool:
    """Whether Triton has compiled the kernel that reads prompts, the largest, on this machine."""
    return any(compiled_kernels_folder().glob("*/chunk_kernel.json"))


def _why(source: ModelSource, plan: MemoryPlan, settings: Settings) -> str:
    """Why `auto` is this model, and what would be better."""
    device = plan.device
    if source.name != POCKET:
        here = "" if device.is_gpu else " of those on this machine"
        return (
            f"{source.name}: the largest Gemma 4{here} that fits {device.name} at 4 bits or better"
        )
    found = "no GPU found" if not device.is_gpu else f"no Gemma 4 fits {device.name} at 4 bits"
    notice = f"{found}: using the {POCKET} model, a small demonstration"
    host = device if not device.is_gpu else cpu_device()
    for fitting in fitting_models(host, settings):
        name, weights = fitting.model.name, fitting.plan.chosen.weights
        size = ModelSource(name, dict(fitting.model.config), None).download_bytes(weights)
        return (
            f"{notice}. This machine's memory holds {name} ({format_bytes(size)} to download):"
            f" rqchat pull {fitting.model.short_name}"
        )
    return notice


def make_cache(opened: OpenedModel) -> RotorQuantCache:
    """An empty cache as the plan has it.

    Raises:
        ModelError: the library cannot serve the model.
    """
    loaded, chosen = opened.loaded, opened.plan.chosen
    calibration = loaded.calibration if chosen.kv_bits < 16 else None

    def refusal(cause: str) -> ModelError:
        if calibration is None:
            return ModelError(f"{opened.name} cannot be used: {cause}; download the model again")
        return ModelError(
            f"{opened.name} cannot be used with its {calibration.name}: {cause}; delete that file,"
            f" and make it anew with 'rqchat calibrate --model {opened.name}'"
        )

    with border(refusal, passing=(torch.OutOfMemoryError,)):
        try:
            return RotorQuantCache(
                loaded.model,
                bits=chosen.kv_bits,
                sink_tokens=SINK_TOKENS,
                recent_tokens=RECENT_TOKENS,
                sliding_bits=chosen.sliding_bits,
                max_tokens=chosen.context_tokens,
                calibration=calibration,
            )
        except RotorQuantError as error:
            raise ModelError(f"{opened.name} cannot be used: {error}") from error


def limit_gpu_memory(plan: MemoryPlan) -> None:
    """Lets torch take what was free on the plan's GPU and no more; nothing on other devices.

    A load that takes too much then fails alone, and not the desktop with it. It has to be called
    before anything else touches the GPU, because it fixes the order in which CUDA numbers them.

    Raises:
        ModelError: torch sees fewer GPUs than their driver.
    """
    order_gpus_by_bus()
    device = plan.device
    if not device.torch_name.startswith("cuda") or not torch.cuda.is_available():
        return
    number, count = torch.device(device.torch_name).index or 0, torch.cuda.device_count()
    if number >= count:
        raise ModelError(
            f"{device.name} is there as {device.torch_name}, but torch sees {count} GPUs; leave"
            " CUDA_VISIBLE_DEVICES unset, or name another one with --device"
        )
    # CUDA's own context is on the card, but not among the bytes that torch counts
    allowed = device.free_bytes - GPU_CONTEXT_BYTES - LEFT_FREE_BYTES
    whole = torch.cuda.get_device_properties(device.torch_name).total_memory
    share = min(max(allowed / whole, 0.0), 1.0)
    torch.cuda.set_per_process_memory_fraction(share, device.torch_name)
