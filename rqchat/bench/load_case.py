"""How fast the loader reads a 4-bit checkpoint, beside how fast the same bytes can be read at all.

    python -m rqchat.bench.load_case write FOLDER MODEL      a random checkpoint, packed
    python -m rqchat.bench.load_case load FOLDER MODEL       one line of JSON
    python -m rqchat.bench.load_case cold FOLDER MODEL       the same, from the disk every time

Two processes, so that the second one's peak of main memory is the loader's alone.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from rqchat.bench.checkpoint import write_checkpoint
from rqchat.bench.memory_case import POCKET_FOLDER, config_of
from rqchat.engine.loading.loader import load_model
from rqchat.engine.model_files.resolve import ModelSource, read_config
from rqchat.engine.planning.devices import choose_device, find_devices
from rqchat.engine.planning.plan import make_plan
from rqchat.engine.settings import Settings

__all__ = ["LoadOutcome", "load", "write"]

_PIECE_BYTES = 2**26
_LINK_BYTES = 2**28
_COPIES = 4


@dataclass(frozen=True, slots=True)
class LoadOutcome:
    """Bytes of the tensors in the files, seconds to load them, and what they could take.

    Attributes:
        file_bytes: of all weights.
        load_s: from the folder to a model that can answer, tokenizer included.
        read_bytes_per_s: of the files alone, again and again into one buffer of 64 MiB, from the
            page cache if they are there: what a disk or the cache can give.
        fresh_bytes_per_s: the same into new memory that is kept, a file at a time: what a program
            gets that reads what it wants to have.
        link_bytes_per_s: from pinned main memory onto the device; 0 without a GPU.
        host_bytes: peak resident size.
    """

    file_bytes: int
    load_s: float
    read_bytes_per_s: float
    fresh_bytes_per_s: float
    link_bytes_per_s: float
    host_bytes: int

    @property
    def share(self) -> float:
        """The rate of loading as a share of the slower of disk and link."""
        limit = min(r for r in (self.read_bytes_per_s, self.link_bytes_per_s) if r)
        return self.file_bytes / self.load_s / limit


def write(folder: Path, model: str) -> None:
    """A random checkpoint of `model` in `folder`."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    write_checkpoint(folder, config_of(model), POCKET_FOLDER, device)


def load(folder: Path, model: str, *, cold: bool = False) -> LoadOutcome:
    """Reads the files for their speed, loads them, and reads them into new memory.

    Args:
        folder: of the checkpoint.
        model: what it is of.
        cold: whether the page cache forgets them before each (on Linux).

    Raises:
        RqchatError: it does not fit.
    """
    settings = Settings(weights="int4")
    device = choose_device(settings, find_devices())
    source = ModelSource(model, read_config(folder, model), folder)
    plan = make_plan(source.shape, device, settings, source.formats)
    files = sorted(folder.glob("*.safetensors"))
    buffer = bytearray(_PIECE_BYTES)
    read = _rate(files, lambda file: _read(file, buffer), cold)
    if cold:
        _forget(files)
    load_s = load_model(source, plan, lambda event: None, offline=True).load_s
    # Linux counts `ru_maxrss` in KiB.
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    gc.collect()  # a mapped file stays in the page cache
    fresh = _rate(files, _read_fresh, cold)
    size = sum(file.stat().st_size for file in files)
    return LoadOutcome(size, load_s, read, fresh, _link_bytes_per_s(), host)


def _forget(files: Sequence[Path]) -> None:
    """Has the page cache drop what it holds of them."""
    for file in files:
        with file.open("rb") as content:
            os.fsync(content.fileno())  # pages that are still to be written cannot be dropped
            os.posix_fadvise(content.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _rate(files: Sequence[Path], read: Callable[[Path], int], cold: bool) -> float:
    """Bytes per second of `read` over all files."""
    if cold:
        _forget(files)
    begun_s = time.perf_counter()
    size = sum(read(file) for file in files)
    return size / (time.perf_counter() - begun_s)


def _read(file: Path, buffer: bytearray) -> int:
    """Bytes in `file`, every one of them read into `buffer`."""
    size = 0
    with file.open("rb", buffering=0) as content:
        while count := content.readinto(buffer):
            size += count
    return size


def _read_fresh(file: Path) -> int:
    """Bytes in `file`, read into new memory, as `torch.empty` gives it."""
    buffer = memoryview(torch.empty(file.stat().st_size, dtype=torch.uint8).numpy())  # type: ignore[arg-type]
    size = 0
    with file.open("rb", buffering=0) as content:
        while count := content.readinto(buffer[size : size + _PIECE_BYTES]):
            size += count
    return size


def _link_bytes_per_s() -> float:
    if not torch.cuda.is_available():
        return 0.0
    host = torch.empty(_LINK_BYTES, dtype=torch.uint8, pin_memory=True)
    there = host.to("cuda")
    torch.cuda.synchronize()
    begun_s = time.perf_counter()
    for _ in range(_COPIES):
        there.copy_(host, non_blocking=True)
    torch.cuda.synchronize()
    return _COPIES * _LINK_BYTES / (time.perf_counter() - begun_s)


def main() -> None:
    """Writes or loads, as the first argument says."""
    what, folder, model = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    if what == "write":
        write(folder, model)
    else:
        found = load(folder, model, cold=what == "cold")
        sys.stdout.write(json.dumps({**asdict(found), "share": found.share}) + "\n")


if __name__ == "__main__":
    main()
