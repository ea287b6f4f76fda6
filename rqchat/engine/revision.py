"""Which weights exactly: the commit of a hub model, or a fingerprint of its files. No torch."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

__all__ = ["model_revision"]

_COMMIT = re.compile(r"[0-9a-f]{40}")
_PATTERNS = ("*.json", "*.jinja", "*.safetensors")
_WHOLE_BYTES = 64 * 2**20
_SAMPLE_BYTES = 2**16
_SAMPLES = 64


def model_revision(folder: Path) -> str:
    """The commit of a hub snapshot, else `sha256:` and 16 digits that change when the files do.

    Files up to 64 MiB count whole. Of larger ones their length, their beginning and 64 samples
    spread over them do: a changed weight file differs nearly everywhere, and reading all of one
    takes longer than loading it.

    Raises:
        OSError: a file cannot be read.
    """
    if folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name):
        return folder.name
    digest = hashlib.sha256()
    for path in sorted({path for pattern in _PATTERNS for path in folder.glob(pattern)}):
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
