"""JSON objects out of downloads: configs, indexes, the headers of weight files. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rqchat.engine.foreign import border
from rqchat.errors import ModelError

__all__ = ["INDEX_FILE", "parse_object", "read_object", "weight_map"]

INDEX_FILE = "model.safetensors.index.json"
_MOST_BYTES = 100_000_000  # as safetensors limits its headers; the largest index has some 10 MB


def read_object(path: Path, name: str) -> dict[str, Any]:
    """The object that the file holds.

    Args:
        path: a file of JSON.
        name: what errors call the model that it belongs to.

    Raises:
        ModelError: it is missing, damaged or larger than any of its kind.
    """
    with border(lambda cause: _unreadable(path.name, name, cause)):
        size_bytes = path.stat().st_size
        if size_bytes > _MOST_BYTES:
            raise ValueError(f"it has {size_bytes:,} bytes, more than any such file")
        data = path.read_bytes()
    return parse_object(data, path.name, name)


def parse_object(data: bytes, file: str, name: str) -> dict[str, Any]:
    """The object that `data` is, in UTF-8.

    Args:
        data: the text.
        file: what errors call the file that it comes from.
        name: what errors call the model.

    Raises:
        ModelError: it is no JSON object.
    """
    with border(lambda cause: _unreadable(file, name, cause)):
        content = json.loads(data.decode("utf-8"))
    if not isinstance(content, dict):
        raise ModelError(f"{file} of {name} is no JSON object; download the model again")
    return content


def weight_map(folder: Path, name: str) -> dict[str, str] | None:
    """The weight file of each tensor, as the index in `folder` says; None where there is none.

    Raises:
        ModelError: the index is damaged, or names a file outside of the folder.
    """
    index = folder / INDEX_FILE
    if not index.is_file():
        return None
    files = read_object(index, name).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise ModelError(
            f"{name} is damaged: {INDEX_FILE} has no weight_map that names files; download it again"
        )
    for shard in files.values():
        # The index is part of a download: trust no path in it, nor that it is one
        if not isinstance(shard, str) or not shard.isprintable() or Path(shard).name != shard:
            raise ModelError(f"{name} names a weight file outside its folder: {shard!r:.200}")
    return files


def _unreadable(file: str, name: str, cause: str) -> ModelError:
    return ModelError(f"{file} of {name} cannot be read: {cause}; download it again")
