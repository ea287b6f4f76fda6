"""Loads what the plan chose: safetensors only, never code from a checkpoint."""

from __future__ import annotations

import importlib.util
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError

from rqchat.engine.events import Event, LoadProgress, Notice
from rqchat.engine.fetch import fetch_model
from rqchat.engine.models import ModelSource
from rqchat.engine.plan import MemoryPlan
from rqchat.engine.revision import model_revision
from rqchat.errors import ModelError

__all__ = ["CALIBRATION_FILE", "LoadedModel", "load_model"]

CALIBRATION_FILE = "calibration.safetensors"
_DTYPES = {"fp32": torch.float32}
_KEPT_IN_BF16 = ["lm_head", "vision_tower", "embed_vision", "audio_tower", "embed_audio", "router"]
_POLL_S = 0.5
# Below this, handing a layer's work to a second thread costs more than it saves, and far more
# where other programs keep the cores busy (measured: 2 instead of 131 tokens/s)
_ONE_THREAD_PARAMETERS = 50_000_000


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run.

    Attributes:
        model: transformers' Gemma4ForConditionalGeneration on its device, in eval mode.
        tokenizer: its fast tokenizer, with the chat template.
        image_processor: pillow's variant; needs no torchvision.
        stop_ids: tokens that end an answer.
        temperature: the one its generation_config.json asks for; 0 where that asks for greedy.
        weight_bytes: what parameters and buffers occupy.
        load_s: seconds that loading took.
        revision: which weights exactly, as `model_revision` says it.
        folder: of its files; None for a model that was made in memory.
    """

    model: Any
    tokenizer: Any
    image_processor: Any
    stop_ids: frozenset[int]
    temperature: float
    weight_bytes: int
    load_s: float
    revision: str = ""
    folder: Path | None = None

    @property
    def calibration(self) -> Path | None:
        """The file of its calibration, where it brings one or `rqchat calibrate` made one."""
        path = self.folder and self.folder / CALIBRATION_FILE
        return path if path and path.is_file() else None


def load_model(
    source: ModelSource,
    plan: MemoryPlan,
    on_event: Callable[[Event], None],
    *,
    offline: bool = False,
) -> LoadedModel:
    """Loads `source` as `plan` says, straight onto the plan's device.

    Raises:
        ModelError: files are missing or damaged, or a library or device is.
    """
    begun_s = time.perf_counter()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    _check_device(plan)
    if not plan.device.is_gpu and source.shape.parameters < _ONE_THREAD_PARAMETERS:
        torch.set_num_threads(1)
    options = _weight_options(source, plan, on_event)
    folder = fetch_model(source, offline=offline, weights=plan.chosen.weights, on_event=on_event)
    with _progress(plan, on_event), _model_errors(source.name):
        loaded: Any = transformers.Gemma4ForConditionalGeneration.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
        model, info = loaded
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        image_processor = transformers.Gemma4ImageProcessorPil.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ModelError(
            f"{source.name} is not whole: {len(missing)} tensors are missing, such as"
            f" {missing[0]}; download it again"
        )
    model.eval()
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        image_processor=image_processor,
        stop_ids=_stop_ids(model),
        temperature=_temperature(model.generation_config),
        weight_bytes=_weight_bytes(model),
        revision=model_revision(folder),
        folder=folder,
        load_s=time.perf_counter() - begun_s,
    )


def _check_device(plan: MemoryPlan) -> None:
    if plan.device.is_gpu and not torch.cuda.is_available():
        raise ModelError(
            f"{plan.device.name} is there, but this torch ({torch.__version__}) cannot use it; run"
            " ./install.sh again for a build with GPU support, or take --device cpu"
        )
    if plan.device.is_gpu and importlib.util.find_spec("accelerate") is None:
        raise ModelError("loading onto a GPU needs the package accelerate: pip install accelerate")


def _weight_options(
    source: ModelSource, plan: MemoryPlan, on_event: Callable[[Event], None]
) -> dict[str, Any]:
    """What `from_pretrained` has to be told about precision and device."""
    if source.config["model_type"] != "gemma4":
        raise ModelError(
            f"{source.name} can be planned but not loaded yet: Gemma 4 12B has another image"
            " input; take --model google/gemma-4-E4B-it or google/gemma-4-31B-it"
        )
    weights = plan.chosen.weights
    options: dict[str, Any] = {"dtype": _DTYPES.get(weights, torch.bfloat16)}
    if plan.device.is_gpu:
        options["device_map"] = {"": plan.device.torch_name}
    if weights in ("fp32", "bf16"):
        return options
    if source.config.get("quantization_config"):
        raise ModelError(
            f"{source.name} is quantized already, in a format that cannot be kept packed yet; take"
            " its bf16 original, such as --model google/gemma-4-31B-it"
        )
    if weights == "int2":
        raise ModelError(
            "weights of 2 bits can be planned but not loaded yet; take a smaller model, such as"
            " --model google/gemma-4-E4B-it, or --weights nf4 with a shorter --context"
        )
    if not plan.device.is_gpu or importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            f"{weights} weights need a GPU and the package bitsandbytes: pip install bitsandbytes;"
            " without them take --weights bf16"
        )
    if weights == "int4":
        on_event(Notice("4-bit weights are quantized to NF4 while loading"))
    options["quantization_config"] = _bitsandbytes(weights)
    return options


def _bitsandbytes(weights: str) -> Any:
    if weights == "int8":
        return transformers.BitsAndBytesConfig(
            load_in_8bit=True, llm_int8_skip_modules=_KEPT_IN_BF16
        )
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=_KEPT_IN_BF16,
    )


@contextmanager
def _progress(plan: MemoryPlan, on_event: Callable[[Event], None]) -> Iterator[None]:
    """Events at both ends, and from a GPU also on the way, by the memory taken so far."""
    total = plan.chosen.bytes.weights
    done = threading.Event()

    def poll() -> None:
        while not done.wait(_POLL_S):
            taken = torch.cuda.memory_allocated(plan.device.torch_name)
            on_event(LoadProgress("loading weights", min(taken, total), total))

    on_event(LoadProgress("loading weights", 0, total))
    watcher = threading.Thread(target=poll, name="rqchat-loading", daemon=True)
    if plan.device.is_gpu:
        watcher.start()
    try:
        yield
    finally:
        done.set()
        if plan.device.is_gpu:
            watcher.join()
    on_event(LoadProgress("loading weights", total, total))


@contextmanager
def _model_errors(name: str) -> Iterator[None]:
    """Turns what loading a damaged or foreign folder raises into one sentence."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"{name} ran out of GPU memory while loading; close other programs that use it, or"
            f" take fewer bits with --weights: {_first_line(error)}"
        ) from None
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise ModelError(
            f"{name} cannot be loaded: {_first_line(error)}; download the model again"
        ) from None


def _stop_ids(model: Any) -> frozenset[int]:
    """`eos_token_id` of generation_config.json, or of config.json where that has none."""
    wanted = model.generation_config.eos_token_id
    if wanted is None:
        wanted = model.config.get_text_config().eos_token_id
    return frozenset([wanted] if isinstance(wanted, int) else wanted or ())


def _weight_bytes(model: Any) -> int:
    tensors = {t.data_ptr(): t for t in (*model.parameters(), *model.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _temperature(generation_config: Any) -> float:
    """Google's files ask for sampling; a file that asks for nothing gets Google's value."""
    if generation_config.do_sample is False:
        return 0.0
    return 1.0 if generation_config.temperature is None else float(generation_config.temperature)
