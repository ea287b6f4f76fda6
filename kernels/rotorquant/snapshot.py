"""A cache in one safetensors file: what is in it, how it is written, and when it is refused.

The metadata of the file has two entries: `rotorquant`, the header as JSON, and `sha256`, of that
header and of name, dtype, shape and bytes of every tensor in the order of their names. Tensors are
called `<storing layer>.<group>.<number>` and `positions.0`.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from rotorquant.attend.tied_key import TiedKey
from rotorquant.config import Bits, RotorQuantConfig
from rotorquant.exceptions import RotorQuantError, SnapshotError
from rotorquant.model_layers import LayerShape

__all__ = ["FORMAT", "FrozenCache", "Header", "Snapshot", "Source", "read_snapshot"]

FORMAT = 2  # counts up whenever an older reader would misread the file
_HEADER, _CHECKSUM, _POSITIONS = "rotorquant", "sha256", "positions"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a cache comes from, as its caller knows it; empty strings are not compared.

    Attributes:
        model_id: name or path of the model.
        revision: of the model.
        token_hash: of the tokens in the cache.
    """

    model_id: str = ""
    revision: str = ""
    token_hash: str = ""


@dataclass(frozen=True, slots=True)
class LayerForm:
    """What a file says of a storing layer.

    Attributes:
        kind: `tied`, `split` or `sliding`.
        head_dim: values per head.
        kv_heads: heads of K and V.
        window: of sliding layers.
        tie: SHA-256 of what K is rebuilt with, of tied layers.
    """

    kind: str
    head_dim: int
    kv_heads: int
    window: int | None
    tie: str | None

    @classmethod
    def of(cls, shape: LayerShape) -> Self:
        """The form of a model's layer."""
        tie = None if shape.tie is None else _tie_digest(shape.tie)
        return cls(shape.kind, shape.head_dim, shape.kv_heads, shape.window, tie)


@dataclass(frozen=True, slots=True)
class Header:
    """Everything in a file but its tensors.

    Attributes:
        format: `FORMAT` of the writer.
        cache: name of the class that wrote it.
        tokens: in the cache.
        source: see `Source`.
        config: the options of the cache.
        layers: the storing layers, in order.
    """

    format: int
    cache: str
    tokens: int
    source: Source
    config: RotorQuantConfig
    layers: tuple[LayerForm, ...]

    @classmethod
    def of(
        cls,
        cache: str,
        tokens: int,
        source: Source | None,
        config: RotorQuantConfig,
        shapes: Sequence[LayerShape],
    ) -> Self:
        """The header that this version writes for a cache."""
        layers = tuple(LayerForm.of(shape) for shape in shapes)
        return cls(FORMAT, cache, tokens, source or Source(), config, layers)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The header that `json.dumps(asdict(header))` wrote.

        Raises:
            SnapshotError: it is of another format, or none.
        """
        try:
            data = json.loads(text)
            if data.get("format") != FORMAT:
                raise SnapshotError(
                    f"its format is {data.get('format')!r} and this version reads {FORMAT}"
                )
            if isinstance(data["config"]["bits"], dict):
                data["config"]["bits"] = Bits(**data["config"]["bits"])
            data["source"] = Source(**data["source"])
            data["config"] = RotorQuantConfig(**data["config"])
            data["layers"] = tuple(LayerForm(**layer) for layer in data["layers"])
            return cls(**data)
        # A `RotorQuantError` too, but one that has its sentence already.
        except SnapshotError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, RotorQuantError) as error:
            raise SnapshotError(f"its header cannot be read ({error})") from error


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """A file that has been read and whose checksum is right; tensors are on the CPU."""

    path: Path
    header: Header
    tensors: dict[str, torch.Tensor]

    @property
    def positions(self) -> list[torch.Tensor]:
        """Positions of the tokens, where a layer needs them."""
        return [item for name, item in self.tensors.items() if name.startswith(_POSITIONS)]

    def groups(self, index: int) -> dict[str, list[torch.Tensor]]:
        """The tensors of storing layer `index`, as its `tensors` gave them."""
        groups: dict[str, list[torch.Tensor]] = {}
        own = [name.split(".") for name in self.tensors if name.startswith(f"{index}.")]
        # By number, not by name: "10" would stand before "2".
        for _, group, number in sorted(own, key=lambda parts: (parts[1], int(parts[2]))):
            groups.setdefault(group, []).append(self.tensors[f"{index}.{group}.{number}"])
        return groups

    def check_layers(self, shapes: Sequence[LayerShape]) -> None:
        """Refuse a model whose layers are not those of the file.

        Raises:
            SnapshotError: its layers are others, or K follows from V in another way.
        """
        own = [LayerForm.of(shape) for shape in shapes]
        if len(own) != len(self.header.layers):
            raise _refusal(
                self.path,
                f"it has {len(self.header.layers)} storing layers and the model has {len(own)}",
            )
        for index, (given, wanted) in enumerate(zip(self.header.layers, own, strict=True)):
            if given != wanted:
                raise _refusal(
                    self.path, f"its storing layer {index} is {given} and the model's is {wanted}"
                )


@dataclass(frozen=True, slots=True, eq=False)
class FrozenCache:
    """All that a file will hold, on the CPU; what the cache does later does not change it.

    Attributes:
        header: see `Header`.
        tensors: by the names that they have in the file.
    """

    header: Header
    tensors: dict[str, torch.Tensor]

    @classmethod
    def of(
        cls,
        header: Header,
        groups: Sequence[dict[str, list[torch.Tensor]]],
        positions: list[torch.Tensor],
        *,
        copied: bool,
    ) -> Self:
        """From what the layers hold; not `copied`, tensors on the CPU stay the layers' own."""
        named = {
            f"{index}.{group}.{number}": rows
            for index, layer in enumerate(groups)
            for group, items in layer.items()
            for number, rows in enumerate(items)
        } | {f"{_POSITIONS}.{number}": rows for number, rows in enumerate(positions)}
        return cls(header, {name: _to_host(rows, copied) for name, rows in named.items()})

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        return sum(rows.nbytes for rows in self.tensors.values())

    def write(self, path: str | Path) -> None:
        """Write a file beside `path`, then put it in its place at once.

        Raises:
            SnapshotError: it cannot be written; what was at `path` is as it was.
        """
        text = json.dumps(asdict(self.header), sort_keys=True)
        metadata = {_HEADER: text, _CHECKSUM: _digest(text, self.tensors)}
        try:
            _replace_file(Path(path), self.tensors, metadata)
        except (OSError, SafetensorError) as error:
            raise SnapshotError(f"{path} cannot be written: {error}") from error


def read_snapshot(path: Path, cache: str, source: Source | None) -> Snapshot:
    """Read and check a file whole.

    Args:
        path: of the file.
        cache: name of the class that reads it.
        source: what it must be of, or None for any.

    Raises:
        SnapshotError: it is missing, cut short, corrupt, of another format, class or source.
    """
    if not path.is_file():
        raise _refusal(path, "there is no such file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError, ValueError, OverflowError, RuntimeError) as error:
        raise _refusal(path, f"it is no whole safetensors file ({error})") from error
    if _HEADER not in metadata or _CHECKSUM not in metadata:
        raise _refusal(path, "it is no saved cache")
    # Before the header is parsed, so that it is the one that was written.
    if _digest(metadata[_HEADER], tensors) != metadata[_CHECKSUM]:
        raise _refusal(path, "it is corrupt: its checksum is wrong")
    try:
        header = Header.from_json(metadata[_HEADER])
    except SnapshotError as error:
        raise _refusal(path, str(error)) from error
    if header.cache != cache:
        raise _refusal(path, f"it is of a {header.cache}; load it with {header.cache}.load")
    # Names that the reader leaves empty are not compared.
    for field in fields(Source):
        given, wanted = getattr(header.source, field.name), getattr(source, field.name, "")
        if wanted and given != wanted:
            raise _refusal(path, f"its {field.name} is {given!r}, not {wanted!r}")
    return Snapshot(path, header, tensors)


def _refusal(path: Path, reason: str) -> SnapshotError:
    return SnapshotError(f"{path} cannot be loaded: {reason}")


def _replace_file(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    # In the same folder, as a rename is only atomic within one file system.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        save_file(tensors, name, metadata)
        with open(name, "rb+") as file:
            os.fsync(file.fileno())  # or the rename could survive a crash that the bytes do not
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def _digest(text: str, tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name, rows in sorted(tensors.items()):
        # Names, dtypes and shapes count, too: the same bytes could be cut into other tensors.
        digest.update(json.dumps([name, str(rows.dtype), list(rows.shape)]).encode())
        digest.update(_bytes(rows))
    return digest.hexdigest()


def _to_host(rows: torch.Tensor, copied: bool) -> torch.Tensor:
    host = rows.contiguous().cpu()
    # Of a tensor that is there already, `cpu` gives the tensor itself.
    return host.clone() if copied and host.data_ptr() == rows.data_ptr() else host


def _tie_digest(tie: TiedKey) -> str:
    cpu = torch.device("cpu")
    digest = hashlib.sha256(_bytes(tie.weight(cpu)))
    digest.update(_bytes(tie.frequencies(cpu)))
    return digest.hexdigest()


def _bytes(rows: torch.Tensor) -> Any:
    # numpy knows no bfloat16.
    return rows.contiguous().flatten().view(torch.uint8).numpy()
