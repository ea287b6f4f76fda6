"""The document world: what is asked, what is learned, and that training sees what users send."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import PreTrainedTokenizerFast

from rqchat.engine.conversation import Message
from rqchat.engine.generation.prompt import PromptWriter
from rqchat.engine.inputs.documents import Document
from rqchat.engine.inputs.pictures import Picture
from rqchat.pocket.training.architecture import build_model, model_folder
from rqchat.pocket.training.attention import (
    TRAINING_ATTENTION,
    conversation_masks,
    register_training_attention,
    segment_positions,
)
from rqchat.pocket.training.batches import BatchMaker, Steps, encode_pieces
from rqchat.pocket.training.language.dialogues import Prose, Turn, document_conversation, render
from rqchat.pocket.training.language.facts import related_fact, sample_fact
from rqchat.pocket.training.language.smalltalk import sample_exchange

_WORDS = ("walrus", "copper", "lantern", "yoghurt", "violet", "saddle")
_PROSE = Prose(("The tide turned. Nobody saw it! Was it late? It was. " * 40,), _WORDS)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(model_folder())


@given(st.integers(0, 2**32))
def test_a_known_fact_is_answered_in_the_words_of_the_text(seed: int) -> None:
    rng = random.Random(seed)
    fact = sample_fact(rng, _WORDS)
    assert fact.answer == f"{fact.statement}."
    assert fact.value in fact.answer
    assert fact.subject.lower() in fact.question(rng).lower()


@given(st.integers(0, 2**32))
def test_the_answer_to_an_unknown_fact_differs_only_where_the_value_would_stand(seed: int) -> None:
    fact = sample_fact(random.Random(seed), _WORDS)
    known, absent = fact.answer, fact.absent_answer
    before = known[: -len(fact.value) - 1]
    assert absent.startswith(before)
    assert "not in the text" in absent


@given(st.integers(0, 2**32))
def test_documents_hold_what_is_answered_and_not_what_is_denied(seed: int) -> None:
    rng = random.Random(seed)
    document, turns = document_conversation(rng, _PROSE, 400, 3, 4)
    for turn in turns:
        if "not in the text" not in turn.answer:
            assert turn.answer[1:] in document
        else:
            assert turn.answer.split(" not in")[0] not in document


@given(st.integers(0, 2**32))
def test_a_distractor_of_a_plain_fact_differs_in_one_word_at_most(seed: int) -> None:
    rng = random.Random(seed)
    fact = sample_fact(rng, _WORDS)
    near = related_fact(rng, fact, _WORDS)
    if near.form is fact.form and fact.form.link == "is":
        pairs = zip(fact.subject.split(), near.subject.split(), strict=True)
        assert sum(one != other for one, other in pairs) <= 1


def test_the_model_says_how_large_it_is() -> None:
    """The self-description names the true parameter count, to the million."""
    rng = random.Random(0)
    answers = {sample_exchange(rng, _WORDS, "3 million").answer for _ in range(2000)}
    described = [answer for answer in answers if "parameters" in answer]
    count = sum(parameter.numel() for parameter in build_model(0).parameters())
    assert len(described) == 1
    assert f"{round(count / 1e6)} million parameters" in described[0]


def test_only_answers_are_learned(tokenizer: PreTrainedTokenizerFast) -> None:
    turns = [Turn("Who?", "The captain is Ada."), Turn("When?", "It opens at 9:30.")]
    ids, learned = encode_pieces(tokenizer, render(random.Random(3), "", turns))
    kept = [token for token, learn in zip(ids, learned, strict=True) if learn]
    assert tokenizer.decode(kept) == "The captain is Ada.<turn|>It opens at 9:30.<turn|>"


def test_training_reads_what_the_engine_writes(tokenizer: PreTrainedTokenizerFast) -> None:
    """Token for token, for a document, a past answer and a new question."""
    document = "A LICENCE.\n\nThe access code for the north gate is 48213. (c) nobody"
    turns = [Turn("What is the access code?", "The access code is 1."), Turn("Who?", "x")]
    opening = f'<document name="a.txt">\n{document}\n</document>\n\n'
    pieces = [
        ("<bos>", False),
        (f"<|turn>user\n{opening}{turns[0].question}<turn|>\n<|turn>model\n", False),
        (f"{turns[0].answer}<turn|>", True),
        ("\n", False),
        (f"<|turn>user\n{turns[1].question}<turn|>\n<|turn>model\n", False),
        ("<|channel>thought\n<channel|>", False),
    ]
    writer = PromptWriter(tokenizer, None, 70, side_patches=840)
    prompt = writer.write(
        (
            Message("user", turns[0].question, documents=(Document("a.txt", document),)),
            Message("assistant", turns[0].answer),
            Message("user", turns[1].question),
        )
    )
    assert list(prompt.token_ids) == encode_pieces(tokenizer, pieces)[0]


def test_batches_fit_their_rows_and_repeat_with_the_seed(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    def make() -> BatchMaker:
        return BatchMaker(tokenizer, _PROSE, parameters="3 million", tokens_per_batch=1024, seed=5)

    first, second = make().documents(512), make().documents(512)
    assert first.ids.shape == first.learned.shape == (2, 512)
    assert torch.equal(first.ids, second.ids)
    assert first.learned.any(dim=1).all()


def test_training_attention_equals_the_models_own() -> None:
    """Sliding in blocks and global, against transformers' masks (float32: 1e-4 of unit scale)."""
    register_training_attention()
    model = build_model(0).eval().model.language_model
    ids = torch.randint(30, 4096, (2, 384), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.config._attn_implementation = "eager"
        expected = model(input_ids=ids, use_cache=False).last_hidden_state
        model.config._attn_implementation = TRAINING_ATTENTION
        masks = {"full_attention": None, "sliding_attention": None}
        actual = model(input_ids=ids, attention_mask=masks, use_cache=False).last_hidden_state
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


def test_conversations_in_one_row_are_read_as_if_each_were_alone() -> None:
    """Also two pictures, whose tokens see each other in sliding layers only."""
    register_training_attention()
    model = build_model(0).eval()
    language_model = model.model.language_model
    ids = torch.randint(30, 4096, (1, 400), generator=torch.Generator().manual_seed(0))
    is_image = torch.zeros_like(ids, dtype=torch.bool)
    is_image[:, 5:71] = is_image[:, 73:140] = is_image[:, 300:360] = True
    segments = torch.tensor([[0] * 220 + [1] * 150 + [-1] * 30])
    embedded = language_model.embed_tokens(ids)
    with torch.no_grad():
        language_model.config._attn_implementation = TRAINING_ATTENTION
        together = language_model(
            inputs_embeds=embedded,
            attention_mask=conversation_masks(segments, is_image, 128),
            position_ids=segment_positions(segments),
            use_cache=False,
        ).last_hidden_state
        language_model.config._attn_implementation = "eager"
        for start, end in ((0, 220), (220, 370)):
            alone = model.model(
                inputs_embeds=embedded[:, start:end],
                mm_token_type_ids=is_image[:, start:end].long(),
                use_cache=False,
            ).last_hidden_state
            torch.testing.assert_close(together[:, start:end], alone, atol=1e-4, rtol=1e-4)


def test_training_reads_several_pictures_as_the_engine_writes_them(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    sizes = ((480, 320), (300, 300))
    pictures = tuple(
        Picture(f"{width}.png", width, height, Image.new("RGB", (width, height)))
        for width, height in sizes
    )
    writer = PromptWriter(tokenizer, None, 70, side_patches=840)
    prompt = writer.write((Message("user", "What is in the second picture?", pictures=pictures),))
    images = "".join(
        "<|image>" + "<|image|>" * writer.soft_tokens(picture) + "<image|>" for picture in pictures
    )
    turn = Turn(f"{images}What is in the second picture?", "x")
    pieces = render(random.Random(0), "", [turn])
    kept = [piece for piece in pieces if "system" not in piece[0]][:-2]
    assert list(prompt.token_ids) == encode_pieces(tokenizer, kept)[0]


def test_a_batch_of_mixed_rows_holds_whole_conversations(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """Each begins with <bos>, ends with the end of a turn, and has something to learn."""
    maker = BatchMaker(tokenizer, _PROSE, parameters="3 million", tokens_per_batch=1024, seed=5)
    batch = maker.mixed(256)
    assert batch.segments is not None
    numbers = sorted(set(batch.segments.unique().tolist()) - {-1})
    assert len(numbers) > len(batch.ids)
    for number in numbers:
        own = batch.segments == number
        text = str(tokenizer.decode(batch.ids[own]))
        assert text.startswith("<bos>")
        assert text.endswith("<turn|>\n")
        assert batch.learned[own].any()
    assert not batch.learned[batch.segments == -1].any()


def test_a_step_has_its_batch_whatever_was_drawn_before(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    mix = (("mixed", 256, 0.5), ("documents", 512, 0.5))
    first, second = (
        BatchMaker(tokenizer, _PROSE, parameters="3 million", tokens_per_batch=512, seed=5)
        for _ in range(2)
    )
    later = [batch.ids for _, batch in itertools.islice(Steps(first, mix).from_step(7, 0), 4)]
    alone = second.draw(9, mix)[1].ids
    assert torch.equal(later[2], alone)
