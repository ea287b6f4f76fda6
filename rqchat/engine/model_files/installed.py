"""What of Gemma 4 lies in the folder that the hub's clients share. No torch."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub as hub
import huggingface_hub.constants  # which the package does not load by itself

from rqchat.engine.planning.known_models import known_models
from rqchat.errors import ModelError

__all__ = ["InstalledModel", "installed_models", "remove_installed"]

_FOLDERS = "models--*gemma-4*"


@dataclass(frozen=True, slots=True)
class InstalledModel:
    """A repository of the hub, whole or in part.

    Attributes:
        name: its hub id.
        model: the published model whose weights it holds; its own id for other people's.
        folder: where it lies.
        size_bytes: what it takes there.
    """

    name: str
    model: str
    folder: Path
    size_bytes: int


def installed_models() -> list[InstalledModel]:
    """Every Gemma 4 there, by name."""
    owners = {
        repository: model.name for model in known_models() for repository in model.repositories
    }
    found = []
    for folder in sorted(Path(hub.constants.HF_HUB_CACHE).glob(_FOLDERS)):
        name = folder.name.removeprefix("models--").replace("--", "/")
        found.append(InstalledModel(name, owners.get(name, name), folder, _size_bytes(folder)))
    return found


def remove_installed(model: InstalledModel) -> None:
    """Removes it, with all its revisions.

    Raises:
        ModelError: the folder cannot be removed.
    """
    try:
        shutil.rmtree(model.folder)
    except OSError as error:
        raise ModelError(
            f"{model.folder} cannot be removed: {error.strerror or error}; see who owns it"
        ) from None


def _size_bytes(folder: Path) -> int:
    # Snapshots are links to what lies in `blobs`
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_size for path in files)
