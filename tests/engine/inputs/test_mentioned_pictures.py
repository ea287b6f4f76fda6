"""Which pictures a sentence names."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rqchat.engine.inputs.mentioned_pictures import mentioned_pictures
from rqchat.errors import InputError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "My Pictures").mkdir()
    for name in ("cat.png", "DOG.JPG", "My Pictures/a cat.png", "my cat.png", "v1.2.webp"):
        (tmp_path / name).write_bytes(b"not read here")
    (tmp_path / "folder.png").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("what is in ~/cat.png?", ["cat.png"]),
        ("What is in cat.png.", ["cat.png"]),
        ("compare cat.png and DOG.JPG, please", ["cat.png", "DOG.JPG"]),
        ("is 'cat.png' a cat? cat.png!", ["cat.png"]),
        ('what is in "~/My Pictures/a cat.png"?', ["My Pictures/a cat.png"]),
        ("what is in ~/My Pictures/a cat.png?", ["My Pictures/a cat.png"]),
        (r"what is in ~/My\ Pictures/a\ cat.png ?", ["My Pictures/a cat.png"]),
        ("see my cat.png", ["my cat.png"]),
        ("the file (v1.2.webp)", ["v1.2.webp"]),
        ("./cat.png", ["cat.png"]),
        ("path=cat.png", ["cat.png"]),
        ("what is in @cat.png?", ["cat.png"]),
        ("how do I make a.png smaller? as a .png, or b.jpeg", []),
        ("what is https://example.org/cat.png about?", []),
        ("what is in folder.png or cat.pngs or cat.png.bak?", []),
        ("nothing at all", []),
    ],
)
def test_a_picture_is_found_however_it_is_written(here: Path, text: str, names: list[str]) -> None:
    assert [path.resolve() for path in mentioned_pictures(text)] == [here / name for name in names]


def test_an_address_of_a_file_is_a_path(here: Path) -> None:
    text = f"what is in file://{here}/My%20Pictures/a%20cat.png"
    assert mentioned_pictures(text) == (here / "My Pictures/a cat.png",)


@pytest.mark.parametrize("text", ["see ~/none.png", "see ./none.png", "see /none/x.heic, please"])
def test_a_path_that_does_not_exist_is_said(here: Path, text: str) -> None:
    with pytest.raises(InputError, match="there is no picture"):
        mentioned_pictures(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("what is in ~/My Pictures? or ./clip.MP4?", "clip.MP4 is a video"),
        ("what is in ~/shots?", "~/shots is a folder"),
        ("what is in ./shots/ and cat.png", "./shots/ is a folder"),
        ("what is in ~/folder.png?", "~/folder.png is a folder"),
    ],
)
def test_a_folder_and_a_video_are_never_sent_as_words_alone(
    here: Path, text: str, words: str
) -> None:
    (here / "shots").mkdir()
    (here / "clip.MP4").write_bytes(b"film")
    with pytest.raises(InputError, match=words):
        mentioned_pictures(text)
    log = "\n".join(["found ./shots in shots and a clip.mp4"] * 10)
    assert mentioned_pictures(f"what does /etc hold, and clips?\n{log}") == ()


@given(st.text(alphabet="/~. \\'\"()agnpx\x00\ud800\n", max_size=40))
def test_any_text_is_taken(text: str) -> None:
    try:
        assert mentioned_pictures(text) == ()
    except InputError as error:
        assert "there is no picture" in str(error)
