"""One conversation over one model: against transformers' own generate, and through every mishap."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, Gemma4ForConditionalGeneration, Gemma4ImageProcessorPil

from rqchat.engine.events import (
    Done,
    Event,
    LoadProgress,
    Notice,
    PrefillProgress,
    TextDelta,
    ThoughtDelta,
)
from rqchat.engine.inputs.documents import Document
from rqchat.engine.model_files.resolve import model_revision
from rqchat.engine.planning import devices
from rqchat.engine.planning.devices import cpu_device
from rqchat.engine.session import ChatSession, Message, UserTurn
from rqchat.engine.settings import SamplingSettings, Settings
from tests.engine.sessions import (
    assert_same,
    done_of,
    logits_of,
    over,
    picture_of,
    script,
)
from tests.helpers import SPECIAL_TOKENS


@pytest.fixture(scope="module")
def reference(tiny_folder: Path) -> Any:
    """The same weights with transformers' own attention."""
    model = Gemma4ForConditionalGeneration.from_pretrained(
        tiny_folder, dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval()


class TestAgainstTransformers:
    """The same logits as `generate` with transformers' attention and its own cache."""

    def _generate(
        self, reference: Any, folder: Path, content: list[dict[str, Any]]
    ) -> torch.Tensor:
        pictures = [part.pop("picture").image for part in content if part["type"] == "image"]
        tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        inputs: dict[str, torch.Tensor] = {}
        if pictures:
            processor = Gemma4ImageProcessorPil.from_pretrained(folder)
            made = processor(images=pictures, return_tensors="pt")
            for count in made.pop("num_soft_tokens_per_image").tolist():
                soft = "<|image>" + "<soft>" * count + "<image|>"
                text = text.replace("<|image|>", soft, 1)
            text = text.replace("<soft>", "<|image|>")
            inputs = dict(made)
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        types = (ids == SPECIAL_TOKENS.index("<|image|>")).long()
        output = reference.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=types,
            max_new_tokens=12,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            **inputs,
        )
        return torch.cat(output.logits)

    def test_text(self, session: ChatSession, reference: Any, tiny_folder: Path) -> None:
        question = "A question that is longer than the sliding window and than a chunk of tokens."
        wanted = self._generate(reference, tiny_folder, [{"type": "text", "text": question}])

        assert_same(logits_of(session, UserTurn(question)), wanted)

    def test_two_pictures(self, session: ChatSession, reference: Any, tiny_folder: Path) -> None:
        pictures = (picture_of("red"), picture_of("blue", 48, 144))
        content = [{"type": "image", "picture": picture} for picture in pictures]
        wanted = self._generate(
            reference, tiny_folder, [*content, {"type": "text", "text": "Which colours are there?"}]
        )

        turn = UserTurn("Which colours are there?", pictures=pictures)
        assert_same(logits_of(session, turn), wanted)


class TestOneAnswer:
    """Events and counts of a single question."""

    def test_events_in_order(self, session: ChatSession, monkeypatch: pytest.MonkeyPatch) -> None:
        script(monkeypatch, "<|channel>thought\nHm.<channel|>Yes.")
        turn = UserTurn("Is it?", documents=(Document("d.txt", "It is. " * 9),))
        counted = session.count_tokens(turn)

        events = list(session.ask(turn))

        kinds = [type(event) for event in events]
        order: list[type[Event]] = [PrefillProgress, ThoughtDelta, TextDelta, Done]
        assert kinds == sorted(kinds, key=order.index)
        progress = [event for event in events if isinstance(event, PrefillProgress)]
        done_tokens = [event.done_tokens for event in progress]
        assert done_tokens == sorted(set(done_tokens))
        assert (done_tokens[0], done_tokens[-1]) == (0, counted)
        assert max(b - a for a, b in zip(done_tokens, done_tokens[1:], strict=False)) <= 16
        assert "".join(e.text for e in events if isinstance(e, ThoughtDelta)) == "Hm."
        assert "".join(e.text for e in events if isinstance(e, TextDelta)) == "Yes."

    def test_the_record_of_an_answer(
        self, loaded: ChatSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        session = over(loaded)
        script(monkeypatch, "Yes.")
        turn = UserTurn("Is it?", pictures=(picture_of("red"),))
        counted = session.count_tokens(turn)

        done = done_of(session.ask(turn, SamplingSettings(temperature=0)))

        assert done.stop_reason == "eos"
        assert (done.tokens.input, done.tokens.cached, done.tokens.output) == (counted, 0, 4)
        assert done.tokens.image == 55  # 11 x 5 soft tokens of a picture of 96 x 48
        assert session.used_tokens == counted + 4
        assert session.messages == (
            Message("user", "Is it?", turn.pictures),
            Message("assistant", "Yes."),
        )
        assert done.timing.prefill_s > 0
        assert done.timing.prefill_tokens_per_s == pytest.approx(counted / done.timing.prefill_s)
        assert done.memory.peak_bytes > 100_000_000  # no process with torch is smaller
        assert done.memory.planned_bytes == session.plan.chosen.bytes.total

    def test_max_tokens_end_an_answer(
        self, session: ChatSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        script(monkeypatch, "abcdefgh")

        done = done_of(session.ask(UserTurn("Q"), SamplingSettings(max_tokens=3)))

        assert (done.stop_reason, done.tokens.output) == ("length", 3)
        assert session.messages[-1] == Message("assistant", "abc")

    def test_greedy_repeats_and_a_seed_repeats(self, loaded: ChatSession) -> None:
        warm = SamplingSettings(temperature=1.5, top_k=0, top_p=1.0, seed=3, max_tokens=12)
        other = dataclasses.replace(warm, seed=4)
        turn = UserTurn("Say something.")

        assert torch.equal(logits_of(over(loaded), turn), logits_of(over(loaded), turn))
        assert torch.equal(logits_of(over(loaded), turn, warm), logits_of(over(loaded), turn, warm))
        assert not torch.equal(
            logits_of(over(loaded), turn, warm), logits_of(over(loaded), turn, other)
        )


def test_opening_says_what_it_does(tiny_folder: Path) -> None:
    events: list[Event] = []
    session = ChatSession.open(
        Settings(model=str(tiny_folder), device="cpu"), system="Be short.", on_event=events.append
    )

    assert session.model_name == str(tiny_folder)
    assert session.system == "Be short."
    assert session.context_tokens == 2048
    assert [type(event) for event in events] == [LoadProgress, LoadProgress]
    first, last = events
    assert isinstance(first, LoadProgress) and isinstance(last, LoadProgress)
    assert first.done_bytes == 0 < last.done_bytes == last.total_bytes
    # the plan counts the parameters; the model has position tables and the like besides
    planned = session.plan.chosen.bytes.weights
    assert planned <= session._loaded.weight_bytes <= planned + 4096


def test_no_gpu_means_the_pocket_model_and_one_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "find_devices", lambda: (cpu_device(),))
    events: list[Event] = []
    session = ChatSession.open(Settings(), on_event=events.append)

    assert session.model_name == "pocket"
    (notice,) = (event for event in events if isinstance(event, Notice))
    assert "pocket" in notice.text
    assert session.plan.chosen.kv_bits == 4


def test_facts_name_weights_cache_and_temperature(loaded: ChatSession, tiny_folder: Path) -> None:
    facts = over(loaded).facts
    assert facts.revision == model_revision(tiny_folder)
    assert (facts.kv_mode, facts.torch) == ("aligned", torch.__version__)
