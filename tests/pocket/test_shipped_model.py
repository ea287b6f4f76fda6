"""The files in the package: what loads them, how large they are, and what the model can do.

How often it is right is measured by `rqchat.pocket.training.evaluate` and stated in docs/pocket.md;
here stand single cases that README and docs promise, through the real engine and a packed cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import transformers

from rqchat.engine.conversation import UserTurn
from rqchat.engine.events import Done, TextDelta
from rqchat.engine.inputs.documents import Document
from rqchat.engine.inputs.pictures import read_picture
from rqchat.engine.session import ChatSession
from rqchat.engine.settings import SamplingSettings, Settings
from rqchat.pocket.training.architecture import model_folder

ROOT = Path(__file__).resolve().parents[2]
_GREEDY = SamplingSettings(temperature=0.0, max_tokens=80)
_PROSE = (
    "The tide came in before noon and the boats were pulled up the sand. Nobody spoke of the storm"
    " that had been promised, and the children were sent to gather driftwood for the evening. "
)


@pytest.fixture(scope="module")
def session() -> ChatSession:
    return ChatSession.open(Settings(model="pocket", kv_bits=4))


@pytest.fixture(autouse=True)
def _fresh(session: ChatSession) -> Iterator[None]:
    session.clear()
    yield


def _answer(session: ChatSession, turn: UserTurn) -> str:
    events = session.ask(turn, _GREEDY)
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def test_transformers_auto_classes_load_the_folder() -> None:
    folder = model_folder()
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder)
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    assert type(model).__name__ == "Gemma4ForConditionalGeneration"
    assert tokenizer.convert_tokens_to_ids("<|image|>") == model.config.image_token_id
    if find_spec("torchvision") or transformers.__version__ >= "5.23":  # 5.17 needs torchvision
        processor = transformers.AutoImageProcessor.from_pretrained(folder)
        assert processor.max_soft_tokens == 70


def test_the_files_stay_small() -> None:
    """At most 12 MB of model data in the package."""
    names = ("*.json", "*.jinja", "*.safetensors")
    sizes = [path.stat().st_size for name in names for path in model_folder().glob(name)]
    assert 1_000_000 < sum(sizes) <= 12_000_000


def test_the_structure_is_the_31bs() -> None:
    text = transformers.AutoConfig.from_pretrained(model_folder()).text_config
    kinds = [text.per_layer_config[index].head_dim for index in range(text.num_hidden_layers)]
    assert text.layer_types.count("sliding_attention") == 5 * text.layer_types.count(
        "full_attention"
    )
    assert kinds[-1] == 2 * kinds[0]
    assert text.attention_k_eq_v
    assert text.final_logit_softcapping == 30
    assert text.use_bidirectional_attention == "vision"
    assert text.max_position_embeddings >= 32_768
    assert text.rope_parameters["full_attention"]["partial_rotary_factor"] == 0.25


def test_it_describes_the_picture_of_the_readme(session: ChatSession) -> None:
    picture = read_picture(ROOT / "docs" / "images" / "shapes.png")
    answer = _answer(session, UserTurn("What is in this picture?", pictures=(picture,)))
    for shape in _SHAPES_IN_README:
        assert shape in answer


_SHAPES_IN_README = ("red circle", "blue star", "green triangle")


@pytest.mark.parametrize("place", [0, 20, 41])
def test_it_finds_a_fact_that_lies_in_packed_pages(session: ChatSession, place: int) -> None:
    """About 2,000 tokens, of which all but the first 64 and the last 512 are packed."""
    parts = [_PROSE] * 42
    parts.insert(place, "The access code for the north gate is 48213. ")
    document = Document("tale.txt", "".join(parts))
    turn = UserTurn("What is the access code for the north gate?", documents=(document,))
    assert _answer(session, turn) == "The access code for the north gate is 48213."


def test_it_says_that_a_fact_is_not_there(session: ChatSession) -> None:
    document = Document("tale.txt", _PROSE * 6)
    turn = UserTurn("What is the access code for the south gate?", documents=(document,))
    assert _answer(session, turn) == "The access code for the south gate is not in the text."


@pytest.mark.parametrize(
    ("note", "question", "value"),
    [
        (
            "The spare key is kept in the blue cabinet.",
            "Where is the spare key kept?",
            "blue cabinet",
        ),
        ("Anna's birthday is on 12 May.", "When is Anna's birthday?", "12 May"),
        ("The meeting starts at 14:30.", "When does the meeting start?", "14:30"),
    ],
)
def test_it_reads_a_note_of_one_line(
    session: ChatSession, note: str, question: str, value: str
) -> None:
    turn = UserTurn(question, documents=(Document("stdin", note),))
    assert value in _answer(session, turn)


def test_it_says_what_it_is(session: ChatSession) -> None:
    answer = _answer(session, UserTurn("Who are you?"))
    assert "demonstration model with 3 million parameters" in answer
    assert "Gemma 4 31B" in answer


def test_a_follow_up_uses_the_conversation(session: ChatSession) -> None:
    text = "The captain of the Aurora is Elena Marsh. The price of the silver lamp is 42 euros."
    document = Document("notes.txt", _PROSE * 2 + text)
    first = UserTurn("Who is the captain of the Aurora?", documents=(document,))
    assert _answer(session, first) == "The captain of the Aurora is Elena Marsh."
    second = session.ask(UserTurn("What is the price of the silver lamp?"), _GREEDY)
    events = list(second)
    assert "42 euros" in "".join(event.text for event in events if isinstance(event, TextDelta))
    done = events[-1]
    assert isinstance(done, Done)
    assert done.tokens.cached > done.tokens.input // 2
