"""Looks at the headers of GGUF files on the hub before gigabytes are downloaded. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from rqchat.engine.model_files.gguf.gguf_header import GgufHeader, parse_header
from rqchat.engine.model_files.gguf.gguf_names import check_names
from rqchat.engine.model_files.http_range import open_range
from rqchat.errors import ModelError

__all__ = ["RemoteFiles", "check_of_gguf"]

RemoteFiles = Sequence[tuple[str, int, bytes]]
"""Of each file: its address, its size in bytes, and its beginning as far as it is here."""
_FIRST_BYTES = 2**22  # a vocabulary of 262,144 tokens with its merges takes 15 MB


def check_of_gguf(config: Mapping[str, Any], name: str) -> Callable[[RemoteFiles], None]:
    """A check of a repository that raises ModelError where its GGUF files lack a tensor.

    Args:
        config: the model's config.json.
        name: what errors call the model.
    """

    def check(files: RemoteFiles) -> None:
        keys: set[str] = set()
        text = ""
        for url, size_bytes, beginning in files:
            path = Path(PurePosixPath(urlsplit(url).path).name)
            if path.suffix == ".gguf":
                keys |= _header(url, size_bytes, beginning, path, name).tensors.keys()
                text = text if "mmproj" in path.name else path.name
        check_names(keys, config, text, name)

    return check


def _header(url: str, size_bytes: int, data: bytes, path: Path, name: str) -> GgufHeader:
    """The file's header, of which `data` is here; more of it is read until it is whole."""
    wanted = max(_FIRST_BYTES, len(data))
    while True:
        header = parse_header(data, path, name) if data else None
        if header is not None:
            return header
        if len(data) >= size_bytes:
            raise ModelError(
                f"{name} cannot be used: {path.name} on the hub has no whole header of a GGUF file;"
                " take another model, or report it on the model's page"
            )
        with open_range(url, len(data), min(wanted, size_bytes)) as response:
            # A server that knows no ranges sends the file from its beginning
            data = response.read(wanted) if response.status == 200 else data + response.read()
        wanted *= 2
