"""From `--model` to the files of a model: the pocket model, a folder or a hub id. No torch."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The package resolves its names lazily: pocket and folders never pay for its HTTP client
import huggingface_hub as hub
import huggingface_hub.constants  # which the package does not load by itself

from rqchat.engine.model_files.download import hub_errors, local_folder
from rqchat.engine.model_files.gguf.gguf_config import gguf_config
from rqchat.engine.model_files.gguf.gguf_files import gguf_files, gguf_place
from rqchat.engine.model_files.gguf.gguf_precision import GgufPrecision, gguf_precision
from rqchat.engine.model_files.json_object import read_object, weight_map
from rqchat.engine.model_files.quantization import check_quantization
from rqchat.engine.planning.automatic import fitting_models
from rqchat.engine.planning.formats import weights_of
from rqchat.engine.planning.gpus import DeviceInfo
from rqchat.engine.planning.known_models import (
    GGUF_METHOD,
    checkpoint_of,
    full_name,
    gguf_base,
    known_model,
    known_models,
)
from rqchat.engine.planning.memory import Budget
from rqchat.engine.planning.shape import ModelShape
from rqchat.engine.remote.address import is_address
from rqchat.engine.settings import Settings
from rqchat.errors import ModelError

__all__ = [
    "DEFAULT_GPU_MODEL",
    "POCKET",
    "SMALL_FILES",
    "ModelSource",
    "check_weights",
    "is_here",
    "model_folder",
    "model_revision",
    "read_config",
    "resolve_model",
]

POCKET = "pocket"
DEFAULT_GPU_MODEL = "google/gemma-4-31B-it"
SMALL_FILES = ("*.json", "*.jinja", "*.txt", "*.model")
_TIMEOUT_S = 10.0
_PACKED_FORMATS = ("int4", "int3", "int2")
_Q6_K_BYTES = 210 / 256  # of a value
_WEIGHTS = "model.safetensors"
# What the revision of a folder is made from
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REVISION_PATTERNS = ("*.json", "*.jinja", "*.safetensors", "*.gguf")
_WHOLE_BYTES = 64 * 2**20
_SAMPLE_BYTES = 2**16
_SAMPLES = 64


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model that was found, or whose configuration at least is known.

    Attributes:
        name: what `--json` calls it: `pocket`, the hub id, or the folder's whole path.
        config: its config.json.
        folder: where its files lie; None while a hub model is not on this machine yet.
        file: the GGUF file that it is all in; None where its folder has a config.json.
    """

    name: str
    config: dict[str, Any]
    folder: Path | None
    file: Path | None = None

    @property
    def shape(self) -> ModelShape:
        """Parameters and KV geometry.

        Raises:
            ModelError: not a Gemma 4.
        """
        try:
            return ModelShape.from_config(self.config)
        except ModelError as error:
            raise ModelError(f"{self.name} cannot be used: {error}") from None

    @property
    def precision(self) -> GgufPrecision | None:
        """What GGUF files on this machine hold; None for other weights.

        Raises:
            ModelError: they are damaged.
        """
        place = self.file or self.folder
        if place is None or not gguf_place(place):
            return None
        return gguf_precision(gguf_files(place, self.name), self.name)

    @property
    def formats(self) -> tuple[str, ...] | None:
        """The weights that it can be loaded as, the best first; None where all can be made from it.

        Raises:
            ModelError: its GGUF files are damaged.
        """
        if precision := self.precision:
            return precision.formats
        packed = self.config.get("quantization_config") or {}
        is_packed = packed.get("quant_method") in ("compressed-tensors", GGUF_METHOD)
        return _PACKED_FORMATS if is_packed else None

    def download_bytes(self, weights: str) -> int:
        """Bytes on the hub that those weights are made from; 0 for a folder on this machine.

        Google's packed checkpoints store the output head a second time, in 16 bits; the GGUF files
        have the embedding in Q6_K.
        """
        if self.folder is not None:
            return 0
        shape, repository = self.shape, checkpoint_of(self.name, weights)
        if self.formats is None and repository == self.name:
            return 2 * shape.parameters
        packed = Budget(shape, True, 0, 0).weight_bytes(weights_of("int4"), 16)
        if gguf_base(repository):
            return packed - int((2 - _Q6_K_BYTES) * shape.embedding)
        return packed + 2 * shape.vocabulary * shape.hidden


def resolve_model(settings: Settings, device: DeviceInfo) -> ModelSource:
    """Finds the model that `settings.model` names; downloads at most its configuration.

    `auto` is the largest Gemma 4 that fits a GPU with 4-bit weights or better; on a CPU the largest
    one that fits and is on this machine. Where there is none it is the pocket model.

    Raises:
        ModelError: no such model, a folder that holds none, or another family's.
    """
    wanted = settings.model.strip()
    if is_address(wanted):
        raise ModelError(
            f"{wanted} is a server, and this needs the model's files on this machine; the chat, ask"
            " and replay talk to servers"
        )
    if wanted == "auto":
        wanted = _automatic(device, settings)
    elif not os.path.isdir(wanted):
        wanted = full_name(wanted)
    if wanted == POCKET:
        source = _from_folder(Path(__file__).parents[2] / POCKET, POCKET)
    elif _looks_like_path(wanted):
        folder = Path(wanted).expanduser()
        # By its whole path, so that a saved conversation goes on from any other folder
        source = _from_folder(folder, os.path.abspath(folder) if folder.exists() else wanted)
    else:
        source = _from_hub(wanted, settings.offline)
    # Another family or quantization is refused before weights are looked for or downloaded
    _, quantization = source.shape, source.config.get("quantization_config")
    # Our own stand-in for GGUF files, whose config.json names none (`_from_hub`).
    if quantization != {"quant_method": GGUF_METHOD}:
        check_quantization(quantization, source.name)
    if source.folder is not None:
        check_weights(source.file or source.folder, source.name)
    return source


def is_here(name: str, weights: str) -> bool:
    """Whether the files that `weights` of the published model `name` are made from are here."""
    folder = _snapshot(checkpoint_of(name, weights))
    if folder is None:
        return False
    try:
        check_weights(folder, name)
    except ModelError:  # a download that was cut
        return False
    return True


def model_folder(name: str, weights: str) -> Path:
    """Where the hub's clients keep the files that `weights` of the model `name` are made from."""
    repository = checkpoint_of(name, weights)
    return Path(hub.constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"


def _snapshot(repository: str) -> Path | None:
    # Most have no such folder, and the hub's client takes a while to import
    return local_folder(repository) if os.path.isdir(model_folder(repository, "")) else None


def _automatic(device: DeviceInfo, settings: Settings) -> str:
    for fitting in fitting_models(device, settings):
        name = fitting.model.name
        if device.is_gpu or is_here(name, fitting.plan.chosen.weights):
            return name
    return POCKET


def read_config(place: Path, name: str) -> dict[str, Any]:
    """The config.json in the folder `place`, or what the GGUF file `place` has instead.

    Raises:
        ModelError: it is missing or damaged.
    """
    if place.is_file():
        return gguf_config(gguf_files(place, name), name)
    return read_object(place / "config.json", name)


def _looks_like_path(text: str) -> bool:
    # The id of a model on the hub has one slash.
    is_path = text.startswith((".", "/", "~")) or text.count("/") != 1
    return is_path or text.lower().endswith(".gguf") or Path(text).exists()


def _from_folder(folder: Path, name: str) -> ModelSource:
    if not folder.exists():
        raise ModelError(
            f"there is no model {name!r}; give {_short_names(name)}, a hub id such as"
            f" {DEFAULT_GPU_MODEL}, a folder, a GGUF file, or {POCKET!r}"
        )
    if gguf_place(folder) and not (folder / "config.json").is_file():
        files = gguf_files(folder, name)
        file = files.texts[0]
        return ModelSource(name, gguf_config(files, name), file.parent, file)
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{name} is no model: a model folder holds config.json, tokenizer.json and"
            " .safetensors files, or a GGUF file, which can be named itself"
        )
    return ModelSource(name, read_config(folder, name), folder)


def _short_names(text: str) -> str:
    """Those that `text` may have meant, or all of them."""
    names = [model.short_name for model in known_models()]
    meant = [name for name in names if text.strip().lower() in name] or names
    return ", ".join(meant)


def _from_hub(name: str, offline: bool) -> ModelSource:
    base = gguf_base(name)
    known = known_model(base or name)
    if known and base:
        packed = {"quantization_config": {"quant_method": GGUF_METHOD}}
        return ModelSource(name, {**known.config, **packed}, None)
    if known:
        return ModelSource(name, dict(known.config), None)
    with hub_errors(name):
        cached = hub.try_to_load_from_cache(name, "config.json")
    if isinstance(cached, str):
        return ModelSource(name, read_object(Path(cached), name), None)
    return ModelSource(name, read_object(_download_config(name, offline), name), None)


def _download_config(name: str, offline: bool) -> Path:
    if offline:
        raise ModelError(
            f"{name} is not on this machine; leave out --offline, or use --model {POCKET}, which"
            " needs no network"
        )
    with hub_errors(name):
        # Asked first, because without a network the download tries again for half a minute
        hub.HfApi().model_info(name, timeout=_TIMEOUT_S)
        try:
            download = hub.hf_hub_download
            # A bar for two kilobytes, over a line of ours
            hub.utils.disable_progress_bars()  # type: ignore[attr-defined]
            return Path(download(name, "config.json"))
        except hub.errors.EntryNotFoundError:
            raise ModelError(f"{name} holds no config.json, so it is no model for rqchat") from None


def check_weights(place: Path, name: str) -> None:
    """Every safetensors file that the model names is there and not empty, or a GGUF file is.

    Args:
        place: the folder, or the GGUF file.
        name: what errors call the model.

    Raises:
        ModelError: it is not, or the weights are pickled.
    """
    shards = weight_map(place, name)
    wanted = [_WEIGHTS] if shards is None else sorted(set(shards.values()))
    missing = [shard for shard in wanted if not _has_bytes(place / shard)]
    if not missing or gguf_place(place):
        return
    if (place / "pytorch_model.bin").exists():
        raise ModelError(
            f"{name} holds pickled weights (pytorch_model.bin), which can run code when loaded;"
            " only safetensors are accepted"
        )
    raise ModelError(
        f"{name} is not whole: {len(missing)} of {len(wanted)} weight files are missing or empty,"
        f" such as {missing[0]}; download it again"
    )


def _has_bytes(path: Path) -> bool:
    try:
        return os.stat(path).st_size > 0
    except OSError:
        return False


def model_revision(place: Path, name: str = "") -> str:
    """The revision of the model in the folder `place`, or of the one that a GGUF file is of.

    The commit of a hub snapshot, else `sha256:` and 16 digits that change when the files do.

    Files up to 64 MiB count whole. Of larger ones their length, their beginning and 64 samples
    spread over them do: a changed weight file differs nearly everywhere, and reading all of one
    takes longer than loading it.

    Raises:
        OSError: a file cannot be read.
    """
    if place.parent.name == "snapshots" and _COMMIT.fullmatch(place.name):
        return place.name
    digest = hashlib.sha256()
    if place.is_file():
        # Others may lie beside it
        files = gguf_files(place, name)
        parts = {*files.texts, *([files.tower] if files.tower else ())}
    else:
        parts = {path for pattern in _REVISION_PATTERNS for path in place.glob(pattern)}
    for path in sorted(parts):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        _add_content(digest, path)
    return f"sha256:{digest.hexdigest()[:16]}"


def _add_content(digest: hashlib._Hash, path: Path) -> None:
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        if size_bytes <= _WHOLE_BYTES:
            digest.update(file.read())
            return
        for sample in range(_SAMPLES):
            file.seek(sample * (size_bytes - _SAMPLE_BYTES) // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
