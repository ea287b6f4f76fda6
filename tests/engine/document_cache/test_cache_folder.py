"""The folder of kept caches: found by content alone, bounded, and never in the way."""

from __future__ import annotations

import os
import time
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from rqchat.engine.document_cache.cache_folder import CacheFolder, EntryLabel

_LABEL = EntryLabel(("book.txt",), "pocket", "fp32", 4)
_MUCH = 2**40


def _put(store: CacheFolder, keys: list[int], *, group: str = "g", size: int = 100) -> Path:
    path = store.begin(group, keys)
    path.write_bytes(bytes(size))
    store.finish(path, _LABEL)
    return path


@given(st.lists(st.lists(st.integers(-1, 1), min_size=1, max_size=6), max_size=8), st.data())
def test_the_longest_beginning_is_found(kept: list[list[int]], data: st.DataObject) -> None:
    import tempfile

    keys = data.draw(st.lists(st.integers(-1, 1), min_size=1, max_size=8))
    more_than = data.draw(st.integers(0, 4))
    with tempfile.TemporaryDirectory() as folder:
        store = CacheFolder(Path(folder), _MUCH)
        for entry in kept:
            _put(store, entry)
        found = store.find("g", keys, more_than)

    fitting = [len(k) for k in kept if more_than < len(k) < len(keys) and keys[: len(k)] == k]
    assert (found.tokens if found else None) == max(fitting, default=None)


def test_another_models_entries_are_never_found(tmp_path: Path) -> None:
    store = CacheFolder(tmp_path, _MUCH)
    _put(store, [1, 2, 3], group="other")

    assert store.find("g", [1, 2, 3, 4], 0) is None


def test_an_entry_says_what_it_is_of_and_is_the_owners_alone(tmp_path: Path) -> None:
    store = CacheFolder(tmp_path / "new" / "folder", _MUCH)
    path = _put(store, [1, 2, 3], size=77)

    (entry,) = store.entries()
    assert (entry.label, entry.tokens, entry.size_bytes) == (_LABEL, 3, 77)
    assert path.parent.stat().st_mode & 0o077 == 0
    assert path.with_suffix(".json").stat().st_mode & 0o077 == 0


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    store = CacheFolder(tmp_path, 250)
    old, used = _put(store, [1]), _put(store, [2])
    for age_s, path in ((100, old), (200, used)):
        os.utime(path, (time.time() - age_s,) * 2)
    found = store.find("g", [2, 0], 0)
    assert found is not None
    store.touch(found)
    new = _put(store, [3])

    assert {entry.path for entry in store.entries()} == {used, new}
    assert not old.exists() and not old.with_suffix(".json").exists()


def test_what_a_killed_process_left_is_swept_away(tmp_path: Path) -> None:
    store = CacheFolder(tmp_path, _MUCH)
    begun, label, fresh = (tmp_path / n for n in (".a.safetensors.x", "g-1-b.json", ".c.x"))
    for path in (begun, label, fresh):
        path.touch()
    for path in (begun, label):
        os.utime(path, (time.time() - 7200,) * 2)
    kept = _put(store, [1])

    assert sorted(tmp_path.iterdir()) == sorted([fresh, kept, kept.with_suffix(".json")])


def test_strange_files_are_left_alone(tmp_path: Path) -> None:
    strange = [tmp_path / n for n in ("a-b-c.safetensors", "notes.txt", "x.safetensors")]
    for path in strange:
        path.touch()
    store = CacheFolder(tmp_path, _MUCH)
    _put(store, [1])

    assert len(store.entries()) == 1
    assert all(path.exists() for path in strange)


def test_an_entry_without_its_label_still_serves(tmp_path: Path) -> None:
    store = CacheFolder(tmp_path, _MUCH)
    _put(store, [1]).with_suffix(".json").write_text("{")

    found = store.find("g", [1, 2], 0)
    assert found is not None and found.label is None
    store.remove([found])
    assert list(tmp_path.iterdir()) == []
    store.remove([found])  # another process may have been quicker
