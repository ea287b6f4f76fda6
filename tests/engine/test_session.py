"""One conversation over one model: against transformers' own generate, and through every mishap."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, Gemma4ForConditionalGeneration, Gemma4ImageProcessorPil

from rotorquant import RotorQuantError
from rqchat.engine import opening
from rqchat.engine import session as session_module
from rqchat.engine.documents import Document
from rqchat.engine.events import (
    Done,
    Event,
    LoadProgress,
    Notice,
    PrefillProgress,
    TextDelta,
    ThoughtDelta,
)
from rqchat.engine.hardware import cpu_device
from rqchat.engine.images import Picture
from rqchat.engine.opening import OpenedModel
from rqchat.engine.revision import model_revision
from rqchat.engine.sampling import Sampler
from rqchat.engine.session import ChatSession, Message, UserTurn
from rqchat.engine.settings import SamplingSettings, Settings
from rqchat.errors import ContextLengthError, RqchatError
from tests.helpers import SPECIAL_TOKENS, byte_tokenizer

_GREEDY = SamplingSettings(temperature=0, max_tokens=12)
_EOS = SPECIAL_TOKENS.index("<turn|>")


@pytest.fixture(scope="module")
def loaded(tiny_folder: Path) -> ChatSession:
    """Loaded once; tests make their own sessions over its model."""
    return _open(tiny_folder)


@pytest.fixture
def session(loaded: ChatSession) -> ChatSession:
    return _over(loaded)


def _open(folder: Path, **asked: Any) -> ChatSession:
    return ChatSession.open(Settings(model=str(folder), device="cpu", kv_bits=16, **asked))


def _over(loaded: ChatSession, chunk_tokens: int = 16) -> ChatSession:
    """A new session over the model of `loaded`."""
    chosen = dataclasses.replace(loaded.plan.chosen, chunk_tokens=chunk_tokens)
    plan = dataclasses.replace(loaded.plan, chosen=chosen)
    return ChatSession(OpenedModel(loaded._loaded, plan, "tiny"))


def _copy(loaded: ChatSession, messages: tuple[Message, ...]) -> ChatSession:
    session = _over(loaded)
    session._messages = messages
    return session


def _picture(colour: str, width: int = 96, height: int = 48) -> Picture:
    image = Image.linear_gradient("L").resize((width, height))
    tinted = Image.composite(Image.new("RGB", image.size, colour), image.convert("RGB"), image)
    return Picture(colour, width, height, tinted)


def _script(monkeypatch: pytest.MonkeyPatch, text: str, *, then: int = _EOS) -> None:
    """Lets the sampler draw the tokens of `text`, then `then` for ever."""
    tokens = [*byte_tokenizer()(text, add_special_tokens=False)["input_ids"]]

    class Scripted:
        seed = 0
        is_over = False

        def __init__(self, settings: SamplingSettings) -> None:
            self._tokens = iter(tokens)

        def draw(self, logits: torch.Tensor) -> torch.Tensor:
            return torch.tensor(next(self._tokens, then))

        def accept(self, token: int) -> None:
            """Nothing depends on it."""

    monkeypatch.setattr(session_module, "Sampler", Scripted)


def _fail_at(
    monkeypatch: pytest.MonkeyPatch, session: ChatSession, call: int, error: BaseException
) -> None:
    """Lets a forward pass fail after it has changed the cache: the one after `call` others."""
    model = type(session._loaded.model)
    calls, forward = itertools.count(), model.forward

    def fail(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(self, *args, **kwargs)
        if next(calls) == call:
            raise error
        return output

    monkeypatch.setattr(model, "forward", fail)


def _done(events: Iterator[Event]) -> Done:
    *_, last = events
    assert isinstance(last, Done)
    return last


def _answer(
    session: ChatSession, turn: UserTurn, sampling: SamplingSettings = _GREEDY
) -> tuple[torch.Tensor, Done]:
    """The logits [tokens, vocabulary] that the answer to `turn` is drawn from, and the record."""
    seen: list[torch.Tensor] = []

    class Noting(Sampler):
        def draw(self, logits: torch.Tensor) -> torch.Tensor:
            seen.append(logits)
            return super().draw(logits)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session_module, "Sampler", Noting)
        done = _done(session.ask(turn, sampling))
    return torch.stack(seen), done


def _logits(
    session: ChatSession, turn: UserTurn, sampling: SamplingSettings = _GREEDY
) -> torch.Tensor:
    return _answer(session, turn, sampling)[0]


def _assert_same(first: torch.Tensor, second: torch.Tensor) -> None:
    """Equal but for the order of float32 sums; logits lie between -30 and 30."""
    torch.testing.assert_close(first, second, atol=2e-3, rtol=0)


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

        _assert_same(_logits(session, UserTurn(question)), wanted)

    def test_two_pictures(self, session: ChatSession, reference: Any, tiny_folder: Path) -> None:
        pictures = (_picture("red"), _picture("blue", 48, 144))
        content = [{"type": "image", "picture": picture} for picture in pictures]
        wanted = self._generate(
            reference, tiny_folder, [*content, {"type": "text", "text": "Which colours are there?"}]
        )

        turn = UserTurn("Which colours are there?", pictures=pictures)
        _assert_same(_logits(session, turn), wanted)


class TestOneAnswer:
    """Events and counts of a single question."""

    def test_events_in_order(self, session: ChatSession, monkeypatch: pytest.MonkeyPatch) -> None:
        _script(monkeypatch, "<|channel>thought\nHm.<channel|>Yes.")
        turn = UserTurn("Is it?", documents=(Document("d.txt", "It is. " * 9),))
        counted = session.count_tokens(turn)

        events = list(session.ask(turn))

        kinds = [type(event) for event in events]
        assert kinds == sorted(kinds, key=[PrefillProgress, ThoughtDelta, TextDelta, Done].index)
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
        session = _over(loaded)
        _script(monkeypatch, "Yes.")
        turn = UserTurn("Is it?", pictures=(_picture("red"),))
        counted = session.count_tokens(turn)

        done = _done(session.ask(turn, SamplingSettings(temperature=0)))

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
        _script(monkeypatch, "abcdefgh")

        done = _done(session.ask(UserTurn("Q"), SamplingSettings(max_tokens=3)))

        assert (done.stop_reason, done.tokens.output) == ("length", 3)
        assert session.messages[-1] == Message("assistant", "abc")

    def test_greedy_repeats_and_a_seed_repeats(self, loaded: ChatSession) -> None:
        warm = SamplingSettings(temperature=1.5, top_k=0, top_p=1.0, seed=3, max_tokens=12)
        other = dataclasses.replace(warm, seed=4)
        turn = UserTurn("Say something.")

        assert torch.equal(_logits(_over(loaded), turn), _logits(_over(loaded), turn))
        assert torch.equal(_logits(_over(loaded), turn, warm), _logits(_over(loaded), turn, warm))
        assert not torch.equal(
            _logits(_over(loaded), turn, warm), _logits(_over(loaded), turn, other)
        )


class TestConversation:
    """Turns after turns: what is reused, and that reuse changes nothing."""

    @pytest.mark.parametrize("answer", ["Yes.", "A long answer that leaves the window. " * 3])
    def test_the_next_turn_reads_only_what_is_new(
        self, loaded: ChatSession, monkeypatch: pytest.MonkeyPatch, answer: str
    ) -> None:
        session = _over(loaded)
        turn = UserTurn("First?", documents=(Document("d", "A document. " * 20),))
        with monkeypatch.context() as scripted:
            _script(scripted, answer)
            first = _done(session.ask(turn, SamplingSettings()))

        fresh = _copy(loaded, session.messages)
        reused, second = _answer(session, UserTurn("Second?"))

        _assert_same(_logits(fresh, UserTurn("Second?")), reused)
        # all of the first prompt but the prefilled empty thought
        empty_thought = 2 + len("thought\n")
        assert second.tokens.cached == first.tokens.input - empty_thought

    def test_a_packed_cache_goes_back_to_the_same_place(
        self, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loaded = ChatSession.open(Settings(model=str(tiny_folder), device="cpu", kv_bits=4))
        turn = UserTurn("First?", documents=(Document("d", "A document. " * 90),))
        answers = []
        for _ in range(2):
            session = _over(loaded, chunk_tokens=128)
            with monkeypatch.context() as scripted:
                _script(scripted, "Yes.")
                _done(session.ask(turn))
            before = session.messages
            answers.append(_logits(session, UserTurn("Second?")))
            session._messages = before  # ask the same again: back to the same mark
            answers.append(_logits(session, UserTurn("Second?")))

        for answer in answers[1:]:
            _assert_same(answer, answers[0])
        assert session._prefix.cache.packed_tokens > 0

    def test_another_picture_of_the_same_size_is_read_again(self, session: ChatSession) -> None:
        red = UserTurn("What?", pictures=(_picture("red"),))
        first = _logits(session, red)
        session._messages = ()
        second = _done(session.ask(UserTurn("What?", pictures=(_picture("blue"),)), _GREEDY))
        session._messages = ()

        assert second.tokens.cached < 20  # not a token of the picture
        _assert_same(_logits(session, red), first)

    def test_a_new_system_message_holds_from_the_next_turn(self, loaded: ChatSession) -> None:
        changed = _over(loaded)
        _done(changed.ask(UserTurn("Hi"), _GREEDY))
        fresh = _copy(loaded, changed.messages)
        changed.system = fresh.system = "Be short."

        _assert_same(_logits(changed, UserTurn("And?")), _logits(fresh, UserTurn("And?")))

    def test_a_question_that_was_given_up_costs_no_second_reading(
        self, loaded: ChatSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        session = _over(loaded)
        turn = UserTurn("First?", documents=(Document("d", "A document. " * 20),))
        read = _done(session.ask(turn, _GREEDY)).tokens.input
        before = session.messages
        _done(session.ask(UserTurn("Second?"), _GREEDY))
        fresh = _copy(loaded, before)
        session._messages = before

        logits, third = _answer(session, UserTurn("Something else?"))

        assert third.tokens.cached > read - 20
        _assert_same(logits, _logits(fresh, UserTurn("Something else?")))

    def test_clear_forgets_all_but_the_system_message(self, session: ChatSession) -> None:
        session.system = "Be short."
        empty = session.count_tokens(UserTurn("Q"))
        _done(session.ask(UserTurn("Hi"), _GREEDY))
        session.clear()

        assert (session.messages, session.used_tokens) == ((), 0)
        assert session.count_tokens(UserTurn("Q")) == empty
        assert session.system == "Be short."


class TestMishaps:
    """Nothing is lost, nothing is cut."""

    def test_a_prompt_longer_than_the_context_changes_nothing(
        self, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        session = _open(tiny_folder, context_tokens=128)
        _script(monkeypatch, "Yes.")
        _done(session.ask(UserTurn("Hi")))
        before, used = session.messages, session.used_tokens
        long = UserTurn("Q", documents=(Document("d", "x" * 300),))
        counted = session.count_tokens(long)

        with pytest.raises(ContextLengthError) as caught:
            session.ask(long)

        assert (caught.value.input_tokens, caught.value.context_tokens) == (counted, 128)
        assert f"{counted}" in str(caught.value)
        assert f"--context {counted + 1024}" in str(caught.value)
        assert "/compact" in str(caught.value)
        assert (session.messages, session.used_tokens) == (before, used)

    def test_a_text_that_no_context_holds_is_not_even_counted(
        self, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        session = _open(tiny_folder)
        monkeypatch.setattr(session, "_write", pytest.fail)
        longest = max(map(len, byte_tokenizer().get_vocab()))
        with pytest.raises(ContextLengthError, match="at least 2,049 tokens, but") as caught:
            session.ask(UserTurn("Q", documents=(Document("d", "x" * (2048 * longest + 1)),)))
        assert "--context" not in str(caught.value)

    def test_the_last_token_of_the_context_can_be_used(
        self, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        session = _open(tiny_folder, context_tokens=100)
        _script(monkeypatch, "y" * 200)
        room = 100 - session.count_tokens(UserTurn(""))

        done = _done(session.ask(UserTurn("q" * (room - 1))))
        assert (done.stop_reason, done.tokens.output) == ("length", 1)

        session.clear()
        with pytest.raises(ContextLengthError):
            session.ask(UserTurn("q" * room))

    def test_interrupted_while_reading_nothing_is_kept_but_the_cache(
        self, session: ChatSession
    ) -> None:
        turn = UserTurn("Q", documents=(Document("d", "word " * 50),))
        events = session.ask(turn, _GREEDY)
        while next(events).done_tokens < 48:  # type: ignore[union-attr]
            pass
        session.interrupt()

        rest = list(events)

        assert [type(event) for event in rest] == [Done]
        assert _done(iter(rest)).stop_reason == "interrupted"
        assert session.messages == ()
        assert _done(session.ask(turn, _GREEDY)).tokens.cached == 48

    def test_interrupted_in_the_answer_the_text_is_kept(
        self, session: ChatSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _script(monkeypatch, "abcdefgh")
        said = ""
        for event in session.ask(UserTurn("Q")):
            if isinstance(event, TextDelta):
                said += event.text
            if said == "abc":
                session.interrupt()

        assert isinstance(event, Done)
        assert event.stop_reason == "interrupted"
        assert session.messages[-1] == Message("assistant", "abc", interrupted=True)
        assert _done(session.ask(UserTurn("And?"))).stop_reason == "eos"

    def test_a_listener_that_leaves_keeps_the_text(
        self, session: ChatSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _script(monkeypatch, "abcdefgh")
        events = session.ask(UserTurn("Q"))
        for event in events:
            if isinstance(event, TextDelta) and event.text == "c":
                break
        events.close()  # type: ignore[attr-defined]

        assert session.messages[-1] == Message("assistant", "abc", interrupted=True)

    def test_a_keyboard_interrupt_within_a_step_keeps_the_text(
        self, loaded: ChatSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        session = _over(loaded)
        with monkeypatch.context() as broken:
            _script(broken, "abcdefgh")
            events = session.ask(UserTurn("Q"))
            for event in events:
                if isinstance(event, TextDelta) and event.text == "c":
                    break
            _fail_at(broken, session, 0, KeyboardInterrupt())
            with pytest.raises(KeyboardInterrupt):
                next(events)

        assert session.messages[-1] == Message("assistant", "abc", interrupted=True)
        fresh = _copy(loaded, session.messages)
        _assert_same(_logits(session, UserTurn("And?")), _logits(fresh, UserTurn("And?")))

    @pytest.mark.parametrize("failing_call", [0, 3, 8])
    def test_a_failure_leaves_the_conversation_as_it_was(
        self, loaded: ChatSession, monkeypatch: pytest.MonkeyPatch, failing_call: int
    ) -> None:
        session = _over(loaded)
        _done(session.ask(UserTurn("Hi"), _GREEDY))
        before = session.messages
        wanted = _logits(_copy(loaded, before), UserTurn("And then what?"))

        with monkeypatch.context() as broken:
            _fail_at(broken, session, failing_call, RotorQuantError("no"))
            with pytest.raises(RqchatError, match="the KV cache failed: no"):
                list(session.ask(UserTurn("And then what?"), _GREEDY))

        assert session.messages == before
        _assert_same(_logits(session, UserTurn("And then what?")), wanted)


def test_opening_says_what_it_does(tiny_folder: Path) -> None:
    events: list[Event] = []
    session = ChatSession.open(
        Settings(model=str(tiny_folder), device="cpu"), system="Be short.", on_event=events.append
    )

    assert session.model_name == str(tiny_folder)
    assert session.system == "Be short."
    assert session.context_tokens == 2048
    assert [type(event) for event in events] == [LoadProgress, LoadProgress, Notice]
    first, last, advice = events
    assert isinstance(advice, Notice) and "rqchat calibrate --model" in advice.text
    assert isinstance(first, LoadProgress) and isinstance(last, LoadProgress)
    assert first.done_bytes == 0 < last.done_bytes == last.total_bytes
    # the plan counts the parameters; the model has position tables and the like besides
    planned = session.plan.chosen.bytes.weights
    assert planned <= session._loaded.weight_bytes <= planned + 4096


def test_no_gpu_means_the_pocket_model_and_one_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "find_devices", lambda: (cpu_device(),))
    events: list[Event] = []
    session = ChatSession.open(Settings(), on_event=events.append)

    assert session.model_name == "pocket"
    (notice,) = (event for event in events if isinstance(event, Notice))
    assert "pocket" in notice.text
    assert session.plan.chosen.kv_bits == 4


def test_a_restored_conversation_goes_on_as_the_first_did(loaded: ChatSession) -> None:
    first = _over(loaded)
    _done(first.ask(UserTurn("Hello"), _GREEDY))
    second = _over(loaded)
    second.restore(first.messages)
    assert second.messages == first.messages
    turn = UserTurn("And now?")
    assert second.count_tokens(turn) == first.count_tokens(turn)
    there, _ = _answer(second, turn)
    here, _ = _answer(first, turn)
    # The one reads in one go what the other read in two: float32 sums in another order
    torch.testing.assert_close(there, here, atol=1e-3, rtol=1e-3)


def test_restored_messages_that_the_cache_holds_are_not_read_again(loaded: ChatSession) -> None:
    session = _over(loaded)
    _done(session.ask(UserTurn("Hello"), _GREEDY))
    before = session.messages
    _done(session.ask(UserTurn("Undo me"), _GREEDY))
    session.restore(before)
    assert _done(session.ask(UserTurn("Other"), _GREEDY)).tokens.cached > 0


def test_facts_name_weights_cache_and_temperature(loaded: ChatSession, tiny_folder: Path) -> None:
    facts = _over(loaded).facts
    assert facts.revision == model_revision(tiny_folder)
    assert (facts.kv_mode, facts.torch) == ("aligned", torch.__version__)
