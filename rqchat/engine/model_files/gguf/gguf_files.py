"""Which GGUF files belong to a model: its text model, whole or in parts, and its image part.

No torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rqchat.engine.model_files.gguf.gguf_header import GgufHeader, GgufTensor, read_header
from rqchat.engine.model_files.gguf.gguf_names import UNIFIED_NORM
from rqchat.engine.model_files.json_object import INDEX_FILE
from rqchat.errors import ModelError

__all__ = ["GgufFiles", "gguf_files", "gguf_place", "is_gguf"]

_MAGIC = b"GGUF"
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.I)
_IMAGE_PART, _DRAFTER = re.compile("mmproj", re.I), re.compile("mtp|assistant|draft|imatrix", re.I)
_ARCHITECTURE = "general.architecture"
_KNOWN = ("gemma4",)


@dataclass(frozen=True, slots=True)
class GgufFiles:
    """The files of one model.

    Attributes:
        texts: of the text model, in the order of its parts.
        tower: of what sees pictures; None without.
        tensors: all that they hold, by their names there, in the order of their bytes.
        fields: the text model's metadata.
        tower_fields: the metadata of what sees pictures.
    """

    texts: tuple[Path, ...]
    tower: Path | None
    tensors: dict[str, GgufTensor]
    fields: dict[str, Any]
    tower_fields: dict[str, Any]

    @property
    def is_unified(self) -> bool:
        """Whether the model is the 12B, which has patches of 48 pixels and no tower for them."""
        return UNIFIED_NORM in self.tensors


def is_gguf(path: Path) -> bool:
    """Whether that is a file which begins as GGUF files do, or is named as they are."""
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC or path.suffix.lower() == ".gguf"
    except OSError:
        return False


def gguf_place(place: Path) -> bool:
    """Whether `place` is a GGUF file, or a folder whose weights are in such files."""
    if not place.is_dir():
        return is_gguf(place)
    safetensors = any((place / file).exists() for file in ("model.safetensors", INDEX_FILE))
    return not safetensors and any(place.glob("*.gguf"))


def gguf_files(place: Path, name: str) -> GgufFiles:
    """The files of the model in the folder `place`, or of the one that the file `place` is of.

    Raises:
        ModelError: there is none or more than one, a part is missing, or it is no Gemma 4.
    """
    folder = place if place.is_dir() else place.parent
    found = sorted(folder.glob("*.gguf"))
    towers = [path for path in found if _IMAGE_PART.search(path.name)]
    if place.is_dir():
        others = [path for path in found if path not in towers]
        models = _groups([p for p in others if not _DRAFTER.search(p.name)] or others)
        if len(models) != 1:
            raise _not_one(models, folder, name)
        first = models[0]
    else:
        if _IMAGE_PART.search(place.name):
            raise ModelError(
                f"{name} is the image part of a model; give --model the file of its text model,"
                " beside which it is found"
            )
        first = place
    texts = _parts_of(first, name)
    headers = [read_header(path, name) for path in texts]
    _check_architecture(headers[0], texts[0], name)
    tensors = {key: tensor for header in headers for key, tensor in header.tensors.items()}
    tower, tower_header = _fitting(towers, tensors, name)
    return GgufFiles(
        texts,
        tower,
        tensors | tower_header.tensors,
        headers[0].fields,
        tower_header.fields,
    )


def _groups(paths: list[Path]) -> list[Path]:
    """One file of each model: a model that was split has several."""
    models: dict[str, Path] = {}
    for path in paths:
        part = _PART.fullmatch(path.name)
        models.setdefault(f"{part['stem']}-{part['count']}" if part else path.name, path)
    return list(models.values())


def _not_one(models: list[Path], folder: Path, name: str) -> ModelError:
    found = ", ".join(path.name for path in models) or "none"
    way = f"; name the one to take, such as --model {models[0]}" if models else ""
    return ModelError(f"{name} must hold one GGUF file of a text model; it holds {found}{way}")


def _parts_of(path: Path, name: str) -> tuple[Path, ...]:
    part = _PART.fullmatch(path.name)
    if part is None:
        return (path,)
    count = int(part["count"])
    names = [f"{part['stem']}-{n:05d}-of-{count:05d}{path.suffix}" for n in range(1, count + 1)]
    parts = tuple(path.with_name(each) for each in names)
    missing = [each.name for each in parts if not each.is_file()]
    if missing or not parts:
        lost = missing[0] if missing else f"all of {path.name}'s parts"
        raise ModelError(
            f"{name} is not whole: {max(len(missing), 1)} of its {count} parts are missing, such as"
            f" {lost}; download it into {path.parent}"
        )
    return parts


def _check_architecture(header: GgufHeader, path: Path, name: str) -> None:
    found = header.fields.get(_ARCHITECTURE)
    if found is not None and found not in _KNOWN:
        raise ModelError(
            f"{name} cannot be used: {path.name} holds a model of the family {found!r:.40}; rqchat"
            " runs Gemma 4 (gemma4), such as --model google/gemma-4-31B-it"
        )


def _fitting(
    towers: list[Path], text: dict[str, GgufTensor], name: str
) -> tuple[Path | None, GgufHeader]:
    """The first image part that projects to the text model's width; folders hold several."""
    table = text.get("token_embd.weight")
    for path in towers:
        header = read_header(path, name)
        projection = header.tensors.get("mm.input_projection.weight")
        if projection is None or table is None or projection.shape[0] == table.shape[-1]:
            return path, header
    return None, GgufHeader({}, {})
