"""The files of a model on this machine: looked for first, downloaded where that is allowed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rqchat.engine.events import Event, ignore
from rqchat.engine.model_files.download import Pulled, local_folder, pull
from rqchat.engine.model_files.gguf.gguf_files import gguf_files, gguf_place
from rqchat.engine.model_files.gguf.gguf_remote import check_of_gguf
from rqchat.engine.model_files.gguf.gguf_tokenizer import has_tokenizer
from rqchat.engine.model_files.resolve import (
    POCKET,
    SMALL_FILES,
    ModelSource,
    check_weights,
    is_here,
)
from rqchat.engine.planning.known_models import checkpoint_of, gguf_base, known_model
from rqchat.engine.sizes import format_bytes
from rqchat.errors import ModelError

__all__ = [
    "bytes_to_download",
    "check_that_it_is_here",
    "fetch_model",
    "fetch_small_files",
    "pull_model",
]

_TOKENIZER = "tokenizer.json"


def bytes_to_download(source: ModelSource, weights: str) -> int:
    """What a download of `weights` would bring, about; 0 where they are on this machine."""
    if source.folder is not None or is_here(source.name, weights):
        return 0
    return source.download_bytes(weights)


def check_that_it_is_here(source: ModelSource, weights: str) -> None:
    """Nothing where a load downloads nothing.

    Raises:
        ModelError: the weights are not on this machine.
    """
    size = bytes_to_download(source, weights)
    if size:
        raise ModelError(
            f"{source.name} with {weights} weights is not on this machine: {format_bytes(size)}"
            f" to download. 'rqchat pull {source.name}' does that, and so does --yes;"
            f" --model {POCKET} answers without"
        )


def fetch_model(
    source: ModelSource,
    *,
    offline: bool,
    weights: str | None = None,
    on_event: Callable[[Event], None] = ignore,
) -> Path:
    """The folder with all files that `weights` of `source` are made from.

    What is here and whole is used without asking the network; `rqchat pull` looks for news.

    Raises:
        ModelError: not to be had, or files are missing or damaged.
    """
    if source.folder is not None:
        check_weights(source.file or source.folder, source.name)
        return source.folder
    repository = checkpoint_of(source.name, weights or "")
    folder = local_folder(repository)
    try:
        if folder is not None:
            check_weights(folder, repository)
            return folder
    except ModelError:  # a download that was cut, which goes on below
        if offline:
            raise
    if offline:
        raise ModelError(
            f"{repository} is not on this machine; leave out --offline, or use --model {POCKET},"
            " which needs no network"
        )
    return pull_model(source, weights=weights, on_event=on_event).folder


def fetch_small_files(
    source: ModelSource,
    folder: Path,
    *,
    offline: bool,
    on_event: Callable[[Event], None] = ignore,
) -> Path:
    """Where tokenizer and configuration lie: `folder`, the repository beside GGUF files, or the
    GGUF file itself.

    Raises:
        ModelError: they are not to be had.
    """
    if source.file is not None:
        return source.file
    if (folder / _TOKENIZER).is_file() or not gguf_place(folder):
        return folder
    known = known_model(gguf_base(source.name) or source.name)
    local = local_folder(known.name) if known else None
    if local is not None and (local / _TOKENIZER).is_file():
        return local
    files = gguf_files(folder, source.name)
    if has_tokenizer(files):
        return files.texts[0]
    if known is None:
        return folder
    if offline:
        raise ModelError(
            f"{source.name} takes its tokenizer from {known.name}, which is not on this machine;"
            " leave out --offline once"
        )
    return pull(known.name, SMALL_FILES, on_event).folder


def pull_model(
    source: ModelSource,
    *,
    weights: str | None = None,
    small: bool = False,
    on_event: Callable[[Event], None] = ignore,
) -> Pulled:
    """Downloads and verifies the files that `weights` of `source` are made from.

    With `small` only tokenizer and configuration.

    Raises:
        ModelError: see `pull`; or the hub's files are no whole model.
    """
    repository = checkpoint_of(source.name, weights or "")
    base = gguf_base(repository)
    if small:
        return pull(base or repository, SMALL_FILES, on_event)
    if base is None:
        pulled = pull(repository, (*SMALL_FILES, "*.safetensors"), on_event)
    else:
        check = check_of_gguf(source.config, repository)
        pulled = pull(repository, (*SMALL_FILES, "*.gguf"), on_event, check)
    check_weights(pulled.folder, repository)
    return pulled
