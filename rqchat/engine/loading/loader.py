"""Loads what the plan chose: safetensors or GGUF, never code from a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from rotorquant import fuse_layers
from rotorquant.cpu_layers import shorten_layers
from rqchat.engine.events import Event, LoadProgress, Notice
from rqchat.engine.foreign import border
from rqchat.engine.generation.chat_template import ChatTemplate
from rqchat.engine.loading.small_files import read_small_files
from rqchat.engine.model_files.fetch import fetch_model, fetch_small_files
from rqchat.engine.model_files.resolve import ModelSource, model_revision, read_config
from rqchat.engine.planning.formats import weights_of
from rqchat.engine.planning.known_models import checkpoint_of
from rqchat.engine.planning.plan import MemoryPlan
from rqchat.engine.weights.files.open_source import open_source
from rqchat.engine.weights.files.safetensors_source import WeightSource
from rqchat.engine.weights.fit_layers import sample_ids
from rqchat.engine.weights.joined_products import JoinedProducts
from rqchat.engine.weights.place import Recipe, place_weights
from rqchat.engine.weights.skeleton import build_skeleton
from rqchat.engine.weights.transfer import ByteStream
from rqchat.engine.weights.unread import unread_tensors
from rqchat.errors import ModelError

__all__ = ["CALIBRATION_FILE", "OLD_CALIBRATION_FILE", "LoadedModel", "load_model"]

# Not .safetensors: other engines take every file of that name in a folder for weights
CALIBRATION_FILE, OLD_CALIBRATION_FILE = "calibration.rq", "calibration.safetensors"
_REPORT_S = 0.1
# Below this, handing a layer's work to a second thread costs more than it saves, and far more
# where other programs keep the cores busy (measured: 2 instead of 131 tokens/s)
_ONE_THREAD_PARAMETERS = 50_000_000


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run.

    Attributes:
        model: transformers' Gemma 4 on its device, in eval mode.
        tokenizer: its fast tokenizer, with the chat template.
        image_processor: on pillow; needs no torchvision.
        stop_ids: tokens that end an answer.
        temperature: the one its generation_config.json asks for; 0 where that asks for greedy.
        weight_bytes: what the weights occupy on the device.
        load_s: seconds that loading took.
        revision: which weights exactly, as `model_revision` says it.
        template: its chat template; None stands for the tokenizer's.
        folder: of its files; None for a model that was made in memory.
        suppressed_ids: tokens that are never drawn.
    """

    model: Any
    tokenizer: Any
    image_processor: Any
    stop_ids: frozenset[int]
    temperature: float
    weight_bytes: int
    load_s: float
    revision: str = ""
    template: ChatTemplate | None = None
    folder: Path | None = None
    suppressed_ids: frozenset[int] = frozenset()

    @property
    def side_patches(self) -> int:
        """Patches of 16 pixels on a side of a picture that the model knows; 0 if it sees none."""
        vision = self.model.config.vision_config
        if vision is None:
            return 0
        if hasattr(vision, "mm_posemb_size"):
            return int(vision.mm_posemb_size * vision.pooling_kernel_size)
        return int(vision.position_embedding_size)

    @property
    def calibration(self) -> Path | None:
        """The file of its calibration, where it brings one or `rqchat calibrate` made one."""
        if self.folder is None:
            return None
        paths = (self.folder / name for name in (CALIBRATION_FILE, OLD_CALIBRATION_FILE))
        return next((path for path in paths if path.is_file()), None)


def load_model(
    source: ModelSource,
    plan: MemoryPlan,
    on_event: Callable[[Event], None],
    *,
    offline: bool = False,
    weights: WeightSource | None = None,
) -> LoadedModel:
    """Loads `source` as `plan` says, tensor by tensor, straight onto the plan's device.

    `weights` are where tensors come from instead of the model's files, for a measurement without
    them; its folder then holds the small files alone.

    Raises:
        ModelError: files are missing or damaged, a library or device is, or there is less memory
            than was planned.
    """
    begun_s = time.perf_counter()
    transformers.utils.logging.set_verbosity_error()
    _check_device(plan)
    if not plan.device.is_gpu and source.shape.parameters < _ONE_THREAD_PARAMETERS:
        torch.set_num_threads(1)
    folder = source.folder
    if weights is None or folder is None:
        chosen = plan.chosen.weights
        folder = fetch_model(source, offline=offline, weights=chosen, on_event=on_event)
    _notice_loss(source, plan, on_event)
    small = fetch_small_files(source, folder, offline=offline, on_event=on_event)
    with _model_errors(source.name):
        # First what is read at once: a damaged tokenizer is not to be found after the weights
        files = read_small_files(small, read_config(small, source.name), source.name)
        place = source.file or folder
        sample = sample_ids(files.tokenizer) if plan.chosen.weights == "int3" else None
        model, weight_bytes = _fill(source, place, small, plan, on_event, weights, sample)
        revision = model_revision(place, source.name)
    if plan.device.is_gpu:  # fused layers run as Triton kernels
        fuse_layers(model, JoinedProducts())
    else:
        shorten_layers(model)
    return LoadedModel(
        model=model,
        tokenizer=files.tokenizer,
        image_processor=files.image_processor,
        stop_ids=files.stop_ids,
        temperature=files.temperature,
        weight_bytes=weight_bytes,
        revision=revision,
        template=files.template,
        folder=folder,
        suppressed_ids=files.suppressed_ids,
        load_s=time.perf_counter() - begun_s,
    )


def _check_device(plan: MemoryPlan) -> None:
    device = plan.device
    if device.torch_name == "mps" and not torch.backends.mps.is_available():
        raise ModelError(
            f"{device.name} is there, but this torch ({torch.__version__}) cannot use Metal; update"
            " macOS, or take --device cpu"
        )
    if not device.torch_name.startswith("cuda") or torch.cuda.is_available():
        return
    built = torch.version.cuda or torch.version.hip
    way_out = (
        "its driver is too old for that or of another maker, and 'rqchat doctor' says which"
        if built
        else "run ./install.sh again for a build with GPU support"
    )
    raise ModelError(
        f"{device.name} is there, but this torch ({torch.__version__}) cannot use it; {way_out}, or"
        " take --device cpu"
    )


def _notice_loss(source: ModelSource, plan: MemoryPlan, on_event: Callable[[Event], None]) -> None:
    """Says before the load where bits are lost, what 2 bits cost, and that fitting takes longer."""
    weights, held = plan.chosen.weights, source.precision
    bits = weights_of(weights).bits
    if held and bits < held.bits:
        on_event(
            Notice(f"{source.name} holds {held.bits}-bit weights; they are read at {bits} bits")
        )
    elif held and held.higher and bits == held.bits:
        on_event(
            Notice(
                f"{held.higher:.1%} of the weights of {source.name} are stored with more than"
                f" {bits} bits, and read at {bits}"
            )
        )
    if held and held.converted and weights in ("int8", "int4"):
        kinds = ", ".join(held.converted)
        lost = 100 * weights_of(weights).error
        on_event(
            Notice(
                f"{kinds} blocks of {source.name} are converted to {weights} weights, which are off"
                f" by about {lost:.2g} % of each matrix's power"
            )
        )
    if source.file and not source.config["vision_config"]:
        on_event(
            Notice(
                f"there is no mmproj file of the same model beside {source.file.name}, so it sees"
                " no pictures"
            )
        )
    no_4_bits = not source.formats and checkpoint_of(source.name, "int4") == source.name
    if weights == "int2":
        lost, with_4_bits = weights_of("int2").error, weights_of("int4").error
        on_event(
            Notice(
                f"2-bit weights are off by {lost:.0%} of each matrix's power (4 bits by"
                f" {with_4_bits:.1%}): expect plain mistakes; 'rqchat plan' names smaller models"
            )
        )
    elif weights == "int3":
        on_event(
            Notice(
                "3-bit weights are fitted while loading, layer by layer, to what a sample of text"
                " brings to each; that takes longer"
            )
        )
    elif weights == "int4" and no_4_bits:
        on_event(Notice("4-bit weights are fitted to the checkpoint's while loading"))


def _fill(
    source: ModelSource,
    place: Path,
    small: Path,
    plan: MemoryPlan,
    on_event: Callable[[Event], None],
    weights: WeightSource | None,
    sample: torch.Tensor | None,
) -> tuple[Any, int]:
    """The model with the weights in `place`, configured by `small`, and the bytes they take."""
    device, chosen = torch.device(plan.device.torch_name), plan.chosen
    recipe = Recipe(
        *(source.name, chosen.weights, chosen.head_bits, chosen.bytes.weights),
        *(chosen.on_host, sample),
    )
    # A packed checkpoint has a config.json of its own; what ties the head is the planned model's
    config = read_config(small, source.name)
    config["tie_word_embeddings"] = source.shape.head == 0
    weights = weights or open_source(place, config, source.name)
    model = build_skeleton(config, recipe.dtype, device)
    unread = unread_tensors(model, weights.names(), source.name)
    with ByteStream(device) as stream:
        placed_bytes = place_weights(
            model,
            weights,
            recipe,
            stream,
            _reporter(on_event),
            lambda: _free_bytes(device),
        )
    if unread:
        on_event(
            Notice(
                f"{len(unread)} tensors of {source.name} belong to no part of this model and were"
                f" not read, such as {unread[0]!r:.100}"
            )
        )
    if device.type == "cuda":
        torch.cuda.empty_cache()  # blocks that quantizing took
    return model, placed_bytes


def _reporter(on_event: Callable[[Event], None]) -> Callable[[int, int], None]:
    """Turns bytes read into events: the first, the last, and one every tenth of a second."""
    begun_s = time.perf_counter()
    reported_s = 0.0

    def report(done_bytes: int, total_bytes: int) -> None:
        nonlocal reported_s
        now_s = time.perf_counter()
        if 0 < done_bytes < total_bytes and now_s - reported_s < _REPORT_S:
            return
        reported_s = now_s
        rate = done_bytes / max(now_s - begun_s, 1e-9)
        on_event(LoadProgress("loading weights", done_bytes, total_bytes, rate))

    return report


def _free_bytes(device: torch.device) -> int | None:
    """Bytes that torch can still get on a CUDA device, its own spare blocks included; else None."""
    if device.type != "cuda":
        return None
    spare = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + spare


@contextmanager
def _model_errors(name: str) -> Iterator[None]:
    """Turns what loading a damaged or foreign folder raises into one sentence."""
    passing = (torch.OutOfMemoryError,)
    try:
        with border(lambda cause: _refusal(name, cause), passing=passing):
            yield
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"{name} ran out of GPU memory while loading; close other programs that use it, or"
            f" take fewer bits with --weights: {_first_line(error)}"
        ) from None


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _refusal(name: str, cause: str) -> ModelError:
    return ModelError(f"{name} cannot be loaded: {cause}; download the model again")
