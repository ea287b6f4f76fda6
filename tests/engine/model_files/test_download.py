"""Downloads against a hub on the loopback: cut, damaged, refused, full disks, no network."""

from __future__ import annotations

import shutil
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from rqchat.engine.events import Event, LoadProgress
from rqchat.engine.model_files import parallel_parts
from rqchat.engine.model_files.fetch import fetch_model, pull_model
from rqchat.engine.model_files.resolve import ModelSource, resolve_model
from rqchat.engine.planning.devices import cpu_device
from rqchat.engine.planning.shape import ModelShape
from rqchat.engine.settings import Settings
from rqchat.errors import ModelError
from tests.engine.model_files.hub_server import COMMIT, REPOSITORY, Hub, serve
from tests.engine.weights.gguf_models import write_gguf_folder
from tests.helpers import TINY_CONFIG

SOURCE = ModelSource(REPOSITORY, TINY_CONFIG, None)
WEIGHTS = "model.safetensors"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub client's folder, empty."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.setattr(huggingface_hub.constants, name, str(tmp_path), raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    return tmp_path


@pytest.fixture
def hub(tiny_folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve(Hub(tiny_folder)) as running:
        template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", running.url)
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield running


def _look_up() -> ModelSource:
    return resolve_model(Settings(model=REPOSITORY), cpu_device())


def _blobs(cache: Path) -> Path:
    return cache / "models--someone--tiny" / "blobs"


def test_every_file_arrives_and_is_found_without_the_network(hub: Hub, tiny_folder: Path) -> None:
    events: list[Event] = []

    pulled = pull_model(SOURCE, on_event=events.append)

    for path in tiny_folder.iterdir():
        assert (pulled.folder / path.name).read_bytes() == path.read_bytes()
    assert (pulled.commit, pulled.files) == (COMMIT, len(hub.files))
    assert pulled.size_bytes == pulled.downloaded_bytes == hub.size_bytes
    progress = [event for event in events if isinstance(event, LoadProgress)]
    assert {event.total_bytes for event in progress} == {hub.size_bytes}
    assert progress[-1].done_bytes == hub.size_bytes
    hub.refused = "RepoNotFound"
    assert fetch_model(SOURCE, offline=True) == fetch_model(SOURCE, offline=False) == pulled.folder


def test_a_second_pull_verifies_and_downloads_nothing(hub: Hub) -> None:
    pull_model(SOURCE)

    again = pull_model(SOURCE)

    assert again.downloaded_bytes == 0
    assert hub.requests == ["bytes=0-"]


def test_a_cut_connection_is_taken_up_where_it_broke(hub: Hub, tiny_folder: Path) -> None:
    hub.cut_after = [1000, 500]

    pulled = pull_model(SOURCE)

    assert hub.requests == ["bytes=0-", "bytes=1000-", "bytes=1500-"]
    assert (pulled.folder / WEIGHTS).read_bytes() == (tiny_folder / WEIGHTS).read_bytes()


def test_parts_come_at_the_same_time_and_lie_in_order(
    hub: Hub, tiny_folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = (tiny_folder / WEIGHTS).read_bytes()
    monkeypatch.setattr(parallel_parts, "PART_BYTES", -(-len(content) // 9))
    hub.meeting = 4
    pulled = pull_model(SOURCE)
    assert (pulled.folder / WEIGHTS).read_bytes() == content
    assert (hub.met.is_set(), pulled.downloaded_bytes) == (True, hub.size_bytes)

    shutil.rmtree(cache / "models--someone--tiny")
    hub.cut_after = [700, 0, 300, 0, 0, 200]
    assert (pull_model(SOURCE).folder / WEIGHTS).read_bytes() == content


def test_parts_that_a_server_does_not_know_come_as_one(
    hub: Hub, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel_parts, "PART_BYTES", 1000)
    hub.resumes = False
    folder = pull_model(SOURCE).folder
    assert (folder / WEIGHTS).read_bytes() == (tiny_folder / WEIGHTS).read_bytes()


def test_a_later_pull_goes_on_from_an_earlier_one(hub: Hub, cache: Path) -> None:
    hub.cut_after = [1000, *[0] * 5]
    with pytest.raises(ModelError, match="could not be downloaded.*'rqchat pull someone/tiny'.*on"):
        pull_model(SOURCE)
    with pytest.raises(ModelError, match="weight files are missing|is not on this machine"):
        fetch_model(SOURCE, offline=True)

    pulled = pull_model(SOURCE)

    assert hub.requests[-1] == "bytes=1000-"
    assert pulled.downloaded_bytes < hub.size_bytes
    assert not list(_blobs(cache).glob("*.part"))


def test_a_server_that_cannot_resume_sends_all_again(hub: Hub, tiny_folder: Path) -> None:
    hub.cut_after, hub.resumes = [1000], False

    pulled = pull_model(SOURCE)

    assert (pulled.folder / WEIGHTS).read_bytes() == (tiny_folder / WEIGHTS).read_bytes()


def test_damaged_bytes_are_noticed_and_removed(hub: Hub, cache: Path) -> None:
    hub.spoiled = True

    with pytest.raises(ModelError, match=r"model.safetensors .* arrived damaged .* removed"):
        pull_model(SOURCE)

    assert not list(_blobs(cache).glob("*.part"))
    hub.spoiled = False
    pull_model(SOURCE)


def test_a_blob_that_rotted_on_the_disk_is_found(hub: Hub) -> None:
    folder = pull_model(SOURCE).folder
    blob = (folder / WEIGHTS).resolve()
    blob.write_bytes(blob.read_bytes()[:-4] + b"rot!")

    with pytest.raises(ModelError, match="arrived damaged"):
        pull_model(SOURCE)

    pull_model(SOURCE)


def test_a_full_disk_is_noticed_before_the_download(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 1000, 1000))

    with pytest.raises(ModelError, match=r"needs 1 MiB more in .*HF_HOME"):
        pull_model(SOURCE)

    assert hub.requests == []


def test_the_token_goes_to_the_hub_and_to_nobody_else(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token = "hf_secret"
    with pytest.raises(ModelError, match=r"asks for a login: accept .*/someone/tiny.*HF_TOKEN"):
        pull_model(SOURCE)
    monkeypatch.setenv("HF_TOKEN", "hf_of_another")
    with pytest.raises(ModelError, match=r"not open to your token: accept .*/someone/tiny with"):
        pull_model(SOURCE)
    monkeypatch.setenv("HF_TOKEN", hub.token)

    pulled = pull_model(SOURCE)

    assert pulled.downloaded_bytes == hub.size_bytes
    assert hub.leaked == []


def test_a_token_that_is_stored_is_used(hub: Hub, cache: Path) -> None:
    hub.token = "hf_stored"
    (cache / "no-token").write_text("hf_stored\n", encoding="utf-8")

    assert pull_model(SOURCE).downloaded_bytes == hub.size_bytes


def test_a_busy_hub_is_given_the_time_that_it_asks_for(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    hub.busy = [7, None, 3]

    pulled = pull_model(SOURCE)

    assert pulled.downloaded_bytes == hub.size_bytes
    assert 7.0 in waited
    assert 3.0 in waited


def test_a_hub_that_is_busy_for_long_says_how_long(hub: Hub) -> None:
    hub.busy = [3600]

    with pytest.raises(ModelError, match=r"too many requests.*wait 3600 seconds.*run 'rqchat pull"):
        pull_model(SOURCE)


def test_an_address_that_expired_is_asked_for_anew(hub: Hub, tiny_folder: Path) -> None:
    hub.cut_after, hub.expired = [1000], 2

    pulled = pull_model(SOURCE)

    assert hub.requests == ["bytes=0-", "bytes=1000-"]
    assert (pulled.folder / WEIGHTS).read_bytes() == (tiny_folder / WEIGHTS).read_bytes()


def test_a_storage_that_always_refuses_is_no_missing_login(hub: Hub) -> None:
    hub.expired = 10**6

    with pytest.raises(ModelError, match="could not be downloaded: HTTP Error 403.*goes on where"):
        pull_model(SOURCE)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("GatedRepo", "asks for a login: accept its licence.*hf auth login.*HF_TOKEN"),
        ("RepoNotFound", "there is no model 'someone/tiny' on the hub"),
    ],
)
def test_a_refusal_says_what_to_do(hub: Hub, code: str, message: str) -> None:
    hub.refused = code

    with pytest.raises(ModelError, match=message):
        pull_model(SOURCE)
    with pytest.raises(ModelError, match=message):
        _look_up()


def test_the_configuration_comes_alone(hub: Hub, cache: Path) -> None:
    assert _look_up().shape == ModelShape.from_config(TINY_CONFIG)
    assert hub.requests == []
    shutil.rmtree(cache / "models--someone--tiny")
    del hub.files["config.json"]
    with pytest.raises(ModelError, match="someone/tiny holds no config.json"):
        _look_up()


@pytest.mark.parametrize("blocks", [2, 15])
def test_a_gguf_file_that_cannot_be_used_is_not_downloaded(
    hub: Hub, tiny_folder: Path, tmp_path: Path, cache: Path, blocks: int
) -> None:
    write_gguf_folder(tiny_folder, tmp_path)
    key = b"blk.1.ffn_up.weight"
    data = (tmp_path / "tiny.gguf").read_bytes()
    # Behind a name stand the number of dimensions, two of them, and the type of the blocks
    place = data.index(key) + len(key) + 4 + 16
    assert data[place] == 2
    data = data[:place] + bytes([blocks]) + data[place + 1 :]
    lost = data.replace(key, b"blk.1.ffn_xx.weight") if blocks == 2 else data
    mmproj = (tmp_path / "mmproj-tiny.gguf").read_bytes()
    hub.files = {"mmproj.gguf": mmproj, "tiny.gguf": lost + bytes(2**23)}
    source = ModelSource("google/gemma-4-26B-A4B-it", TINY_CONFIG, None)

    said = r"lacks 1 tensors.*blk\.1\.ffn_up" if blocks == 2 else "has blocks of GGUF type 15"
    with pytest.raises(ModelError, match=said):
        pull_model(source, weights="int4")

    assert hub.requests == [f"bytes=0-{len(mmproj) - 1}", f"bytes=0-{2**22 - 1}"]
    assert not [*cache.glob("models--*/blobs/*")]


def test_offline_never_asks(hub: Hub) -> None:
    with pytest.raises(ModelError, match="someone/tiny is not on this machine.*--offline"):
        fetch_model(SOURCE, offline=True)


def test_no_server_at_all(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")

    with pytest.raises(ModelError, match="could not be downloaded.*check the network"):
        pull_model(SOURCE)
    with pytest.raises(ModelError, match="could not be downloaded.*check the network"):
        _look_up()
    assert caplog.text == ""  # of the tries of the hub's client


def test_google_s_own_bits_come_from_their_own_repository() -> None:
    name = "google/gemma-4-31B-it"
    source = ModelSource(name, TINY_CONFIG, None)

    with pytest.raises(ModelError, match="google/gemma-4-31B-it-qat-w4a16-ct is not on"):
        fetch_model(source, offline=True, weights="int4")
    with pytest.raises(ModelError, match="google/gemma-4-31B-it is not on"):
        fetch_model(source, offline=True, weights="int8")
