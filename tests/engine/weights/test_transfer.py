"""Bytes of files on a device: mapped on a CPU, through a ring of buffers on everything else."""

from __future__ import annotations

import json
import os
import platform
import struct
import sys
from collections import Counter
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from rqchat.engine.loading import loader
from rqchat.engine.weights import transfer
from rqchat.engine.weights.files.safetensors_file import read_headers
from rqchat.engine.weights.transfer import BlockRing, ByteStream, MappedFile
from tests.engine.weights.loading import load

CPU = torch.device("cpu")
_BLOCK = 64
_SIZES = {"long": 40 * _BLOCK + 7, "short": _BLOCK // 2, "even": 3 * _BLOCK}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of random bytes."""
    folder = tmp_path_factory.mktemp("files")
    for name, size in _SIZES.items():
        (folder / name).write_bytes(os.urandom(size))
    return {name: folder / name for name in _SIZES}


@pytest.fixture(scope="module")
def small_ring() -> Iterator[BlockRing]:
    """A ring of 64-byte blocks that all examples share, so that each finds another's blocks."""
    shared = BlockRing(CPU, _BLOCK)
    yield shared
    shared.close()


@st.composite
def _ranges(draw: st.DrawFn) -> tuple[str, int, int]:
    """A file, a first byte and a number of bytes in it."""
    name = draw(st.sampled_from(sorted(_SIZES)))
    begin = draw(st.integers(0, _SIZES[name]))
    return name, begin, draw(st.integers(0, _SIZES[name] - begin))


@given(wanted=st.lists(_ranges(), max_size=12))
def test_any_ranges_in_any_order_come_whole_through_a_ring(
    files: dict[str, Path], small_ring: BlockRing, wanted: list[tuple[str, int, int]]
) -> None:
    for name, begin, count in wanted:
        target = torch.full((count,), 0xA5, dtype=torch.uint8)
        small_ring.read(files[name], begin, target)
        assert bytes(target.tolist()) == files[name].read_bytes()[begin : begin + count]


def test_two_places_of_a_file_are_read_once_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "own"  # threads of the ring that tests share may still read the other files
    path.write_bytes(bytes(_SIZES["long"]))
    read: Counter[int] = Counter()
    fill = transfer.fill

    def counted(file: FileIO, begin: int, buffer: torch.Tensor) -> int:
        read[begin] += Path(str(file.name)) == path
        return fill(file, begin, buffer)

    monkeypatch.setattr(transfer, "fill", counted)
    with ByteStream(CPU, BlockRing(CPU, _BLOCK)) as stream:
        for step in range(20):  # words and their scales
            for begin, count in ((step * _BLOCK, _BLOCK), (30 * _BLOCK + 10 * step, 10)):
                stream.read(path, begin, count, keep=True)

    read = +read
    assert set(range(0, 20 * _BLOCK, _BLOCK)) <= set(read)
    assert set(read.values()) == {1}


def test_a_ring_says_when_a_file_is_too_short(files: dict[str, Path], tmp_path: Path) -> None:
    with ByteStream(CPU, BlockRing(CPU, _BLOCK)) as stream:
        with pytest.raises(OSError, match="ends 9 bytes too early"):
            stream.read(files["short"], 0, _SIZES["short"] + 9, keep=True)
        with pytest.raises(FileNotFoundError):
            stream.read(tmp_path / "none", 0, 1, keep=True)


def test_a_model_is_the_same_through_a_ring(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapped_model = load(tiny_folder).model.state_dict()
    monkeypatch.setattr(loader, "ByteStream", lambda device: ByteStream(device, BlockRing(device)))

    through_ring = load(tiny_folder).model.state_dict()

    assert mapped_model.keys() == through_ring.keys()
    assert all(torch.equal(mapped_model[name], through_ring[name]) for name in mapped_model)


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="needs Linux")
def test_a_weight_that_lies_in_its_file_takes_no_memory_of_its_own(tiny_folder: Path) -> None:
    stored = load_file(tiny_folder / "model.safetensors")
    model = load(tiny_folder, "bf16").model
    ranges = [
        tuple(int(place, 16) for place in line.split()[0].split("-"))
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith(str(tiny_folder / "model.safetensors"))
    ]

    weights = {name: tensor for name, tensor in model.state_dict().items() if name in stored}

    assert len(weights) == len(stored)
    for name, tensor in weights.items():
        inside = any(begin <= tensor.data_ptr() < end for begin, end in ranges)
        assert inside is (stored[name].dtype == tensor.dtype), name


def test_writing_into_a_weight_leaves_its_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    with ByteStream(CPU) as stream:
        kept = stream.read(path, 10, 20, keep=True)
        passing = stream.read(path, 10, 20, keep=False)
    kept += 1
    path.unlink()

    assert kept.tolist() == list(range(11, 31))
    assert passing.tolist() == list(range(10, 30))


def test_systems_that_cannot_bring_pages_in_have_them_touched(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_POPULATE_READ", 9999)

    with ByteStream(CPU) as stream:
        found = stream.read(files["long"], 3, 2000, keep=True)

    assert bytes(found.tolist()) == files["long"].read_bytes()[3:2003]


def test_a_file_that_cannot_be_mapped_is_read(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(19, "No such device")

    monkeypatch.setattr("rqchat.engine.weights.transfer.MappedFile", refuse)

    with ByteStream(CPU) as stream:
        found = stream.read(files["long"], 3, 2000, keep=True)
        with pytest.raises(OSError, match="ends 2 bytes too early"):
            stream.read(files["even"], 0, _SIZES["even"] + 2, keep=True)

    assert bytes(found.tolist()) == files["long"].read_bytes()[3:2003]


def _can_populate() -> bool:
    """Elsewhere a cut mapping ends the process, as every program's does."""
    version = platform.release().split("-")[0].split(".")[:2]
    return sys.platform == "linux" and [int(part) for part in version] >= [5, 14]


@pytest.mark.skipif(not _can_populate(), reason="needs Linux 5.14")
def test_a_file_that_is_cut_off_meanwhile_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(10**5))
    with path.open("rb", buffering=0) as file:
        pages = MappedFile(file)
        os.truncate(path, 5000)

        with pytest.raises(OSError, match="cut off meanwhile"):
            pages.tensor(0, 10**5)
        with pytest.raises(OSError, match="ends 1 bytes too early"):
            pages.tensor(0, 10**5 + 1)


def test_a_tensor_in_an_odd_place_is_read_all_the_same(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}).encode()
    header += b" " * (8 - (8 + len(header)) % 4 + 1)  # a length that no writer takes
    values = [0.5, -1.0, 2.0, 3.0, 4.0, -5.5]
    content = struct.pack("<Q", len(header)) + header + struct.pack("<6f", *values)
    (tmp_path / "model.safetensors").write_bytes(content)
    tensor = read_headers(tmp_path, "odd")["w"]
    assert tensor.begin % 4

    with ByteStream(CPU) as stream:
        assert tensor.read(stream).flatten().tolist() == values
        assert tensor.rows(range(2), stream).flatten().tolist() == values
        assert tensor.rows(range(1, 2), stream).flatten().tolist() == values[3:]
