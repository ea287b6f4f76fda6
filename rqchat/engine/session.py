"""One conversation over one model and one cache: what the commands use of the torch side."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, Self

import torch

from rotorquant import RotorQuantCache, RotorQuantError
from rotorquant.step_graph import Recorder
from rqchat.engine.conversation import ContextPart, GivenMessage, Message, UserTurn
from rqchat.engine.document_cache.cache_folder import CacheFolder
from rqchat.engine.document_cache.kept_caches import KeptCaches
from rqchat.engine.document_cache.prefix_cache import PrefixCache
from rqchat.engine.events import Event, ModelFacts, Notice, ignore
from rqchat.engine.generation.cached_prefix import CachedPrefix
from rqchat.engine.generation.generate import Generation, Steps, recorder_for
from rqchat.engine.generation.json_constraint import Constraints
from rqchat.engine.generation.out_of_memory import step_down
from rqchat.engine.generation.prompt import Prompt, PromptWriter, continued
from rqchat.engine.generation.result import context_parts, done_record, too_long
from rqchat.engine.generation.sampling import Sampler
from rqchat.engine.loading.memory_in_use import used_bytes
from rqchat.engine.loading.open_model import OpenedModel, make_cache, open_model
from rqchat.engine.planning.plan import MemoryPlan
from rqchat.engine.settings import SamplingSettings, Settings
from rqchat.errors import ContextLengthError, ModelError, RqchatError

__all__ = ["ChatSession", "Message", "UserTurn"]

_MARKS = 6  # places to go back to; the 31B's take up to 0.4 to 0.9 GB of host memory each
_BEFORE_THE_END = (2048, 256)


class ChatSession:
    """A conversation. Not to be shared between threads, but for `interrupt`.

    Attributes:
        system: the system message, or None; a new one holds from the next turn on.
        thinking: whether the model is asked to think before it answers.
    """

    def __init__(
        self,
        opened: OpenedModel,
        folder: CacheFolder | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        """Most callers want `open`. `recorder` captures steps; by default the device's own."""
        self.system: str | None = None
        self.thinking = False
        loaded, plan, self._model_name = opened
        self._loaded, self._plan, self._whole_plan = loaded, plan, plan
        see, patches = loaded.image_processor, loaded.side_patches
        self._writer = PromptWriter(
            loaded.tokenizer,
            see,
            plan.budget_of,
            side_patches=patches,
            template=loaded.template,
        )
        self._stored: PrefixCache | None = None
        if folder is not None:
            self._stored = PrefixCache(
                folder, loaded.model, opened.name, loaded.revision, plan.chosen
            )
        self._prefix = CachedPrefix(make_cache(opened), _MARKS, self._stored)
        self._messages: tuple[Message, ...] = ()
        config = loaded.model.config.get_text_config()
        self._most_tokens = int(config.max_position_embeddings)
        self._vocabulary_tokens = int(config.vocab_size)
        image_token = getattr(loaded.model.config, "image_token_id", None)
        if patches and image_token != self._writer.image_ids()[1]:
            raise self._mixed(f"config.json has {image_token} for a picture's token")
        suppressed = sorted(loaded.suppressed_ids)
        self._constraints = Constraints(
            loaded.tokenizer, loaded.stop_ids, config.vocab_size, suppressed
        )
        self._suppressed = torch.tensor(suppressed, dtype=torch.long, device=loaded.model.device)
        self._steps = Steps(recorder or recorder_for(loaded.model.device))
        self._stop = threading.Event()

    @classmethod
    def open(
        cls,
        settings: Settings,
        *,
        system: str | None = None,
        on_event: Callable[[Event], None] = ignore,
        folder: CacheFolder | None = None,
    ) -> Self:
        """Plans and loads; `on_event` gets `Notice` and `LoadProgress`.

        With a `folder`, long documents and conversations are read once, ever.

        Raises:
            RqchatError: no such model or device, or it does not fit.
        """
        opened = open_model(settings, on_event)
        session = cls(opened, folder)
        session.system = system
        return session

    @property
    def plan(self) -> MemoryPlan:
        """What was planned and loaded."""
        return self._plan

    @property
    def model_name(self) -> str:
        """`pocket`, a hub id or a folder."""
        return self._model_name

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation without the system message."""
        return self._messages

    @property
    def used_tokens(self) -> int:
        """Tokens in the cache."""
        return len(self._prefix)

    @property
    def context_tokens(self) -> int:
        """Tokens that the plan holds, answers included."""
        return self._plan.chosen.context_tokens

    @property
    def facts(self) -> ModelFacts:
        """What besides the plan decides which answer comes out."""
        cache, loaded = self._prefix.cache.config, self._loaded
        return ModelFacts(
            loaded.revision, cache.mode, loaded.temperature, torch.__version__, cache.calibration
        )

    def count_tokens(self, turn: UserTurn) -> int:
        """Tokens of the whole prompt that `turn` would make, pictures included."""
        return len(self._write(turn).token_ids)

    def check(self, turn: UserTurn) -> int:
        """As `count_tokens`, for a turn that `ask` would take.

        Raises:
            ContextLengthError: the prompt leaves no room for an answer.
        """
        return len(self._prompt(turn, "").token_ids)

    @property
    def used_bytes(self) -> int:
        """Memory that this process holds of the device now."""
        return used_bytes(self._plan.device)

    @property
    def weight_bytes(self) -> int:
        """What parameters and buffers occupy."""
        return self._loaded.weight_bytes

    @property
    def cache_bytes(self) -> int:
        """What the KV cache occupies; on a GPU it takes memory for the whole context at once."""
        return int(self._prefix.cache.nbytes)

    @property
    def sees_pictures(self) -> bool:
        """Whether the model has an image tower."""
        return self._loaded.model.config.vision_config is not None

    def context_parts(self) -> tuple[ContextPart, ...]:
        """What the conversation consists of, in tokens."""
        messages = self._with_system(*self._messages)
        return context_parts(self._writer, messages, thinking=self.thinking)

    def ask(
        self,
        turn: UserTurn,
        sampling: SamplingSettings | None = None,
        *,
        begun: str = "",
        schema: str | None = None,
    ) -> Generator[Event, None, None]:
        """Answers `turn`; the conversation has grown by both once `Done` came.

        `begun` is how the answer begins; events then hold only what comes after it. `schema`, which
        `json_schema.read_schema` has let through, is a JSON schema that the answer matches if it
        ends. Closing the generator early keeps the text so far, as an interruption does.

        Raises:
            ContextLengthError: at once, when the prompt leaves no room for an answer.
            RqchatError: from the generator, when the device runs out of memory.
        """
        prompt = self._prompt(turn, begun)
        return self._begin(turn, prompt, sampling or SamplingSettings(), schema, begun)

    def answer(
        self,
        messages: Sequence[GivenMessage],
        sampling: SamplingSettings,
        *,
        begun: str = "",
        schema: str | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> Generator[Event, None, None]:
        """Answers a conversation that is given whole, and no part of this session's own.

        As `ask`, whose cache it shares: what was read of the same beginning is not read again.
        `tools` are functions that the model may call, each as `{"type": "function", "function":
        {...}}`; a call is a `ToolRequest` among the events, and who runs it comes back with its
        result as a message.

        Raises:
            ContextLengthError: at once, when the prompt leaves no room for an answer.
            RqchatError: a picture or the template cannot be used; from the generator, when the
                device runs out of memory.
        """
        self._refuse_hopeless(max(len(message.text) for message in messages))
        written = self._writer.write(messages, thinking=self.thinking, tools=tools)
        written = dataclasses.replace(written, shared_tokens=_shared_places(written))
        prompt = self._fitting(written, begun)
        return self._begin(None, prompt, sampling, schema, begun, calls=bool(tools))

    def keep_conversations(self, most_bytes: int) -> None:
        """From now on a conversation that another one pushes out of the cache waits in host memory,
        at most `most_bytes` of all together, and is written to the disk where that is too much."""
        drop = None if self._stored is None else self._stored.store_frozen
        self._prefix.kept = KeptCaches(self._loaded.model, most_bytes, drop)

    def count(
        self, messages: Sequence[GivenMessage], tools: Sequence[Mapping[str, Any]] = ()
    ) -> int:
        """Tokens of the prompt that `answer` would make."""
        return len(self._writer.write(messages, thinking=self.thinking, tools=tools).token_ids)

    def _begin(
        self,
        turn: UserTurn | None,
        prompt: Prompt,
        sampling: SamplingSettings,
        schema: str | None,
        begun: str,
        *,
        calls: bool = False,
    ) -> Generator[Event, None, None]:
        left_tokens = self.context_tokens - len(prompt.token_ids)
        # Here and not in the generator: an interruption before its first event counts.
        self._stop.clear()
        sampler = self._sampler(sampling, schema)
        most_tokens = min(left_tokens, sampling.max_tokens or left_tokens)
        generation = Generation(
            self._loaded, self._writer, self._prefix, self._stop.is_set, self._steps
        )
        generation.begin_with(begun)
        if calls:
            generation.expect_calls()
        return self._answer(turn, prompt, sampler, most_tokens, generation)

    def _prompt(self, turn: UserTurn, begun: str) -> Prompt:
        """The prompt for `turn`, which leaves room for an answer that goes on after `begun`."""
        self._refuse_hopeless(
            max(len(turn.text), *(len(document.text) for document in turn.documents), 0)
        )
        return self._fitting(self._write(turn), begun)

    def _fitting(self, written: Prompt, begun: str) -> Prompt:
        prompt = continued(written, self._writer.text_ids(begun))
        if len(prompt.token_ids) >= self.context_tokens:
            raise self._too_long(len(prompt.token_ids))
        if (largest := max(prompt.token_ids)) >= self._vocabulary_tokens:
            raise self._mixed(f"it makes token {largest} of this text")
        return prompt

    def _mixed(self, found: str) -> ModelError:
        return ModelError(
            f"the tokenizer of {self._model_name} is another model's: {found}; download it again"
        )

    def _refuse_hopeless(self, characters: int) -> None:
        """Counting takes a hundred times a text's bytes: not where no context can hold it."""
        least = self._writer.least_tokens(characters)
        if least > self._most_tokens:
            raise self._too_long(least, at_least=True)

    def _too_long(self, tokens: int, *, at_least: bool = False) -> ContextLengthError:
        goes_on = bool(self._messages)
        return too_long(tokens, self._plan, self._most_tokens, goes_on=goes_on, at_least=at_least)

    def interrupt(self) -> None:
        """Ends the running answer after the current step. Safe from threads and signal handlers."""
        self._stop.set()

    def restore(self, messages: tuple[Message, ...]) -> None:
        """Goes on from `messages`: user and assistant in turn, an answer at the end.

        What the cache already holds of them is not read again.
        """
        roles = [message.role for message in messages]
        assert roles == ["user", "assistant"] * (len(roles) // 2), roles
        self._messages = messages
        if not messages:
            self._come_back()

    def clear(self) -> None:
        """Forget the conversation; the system message stays."""
        self.restore(())
        self._prefix.reset()

    def _come_back(self) -> None:
        """To all that was planned, where memory ran short before: there may be enough again."""
        if self._plan is not self._whole_plan:
            self._plan = self._whole_plan
            self._prefix.replace(lambda: self._new_cache(self._plan))

    def close(self) -> None:
        """Keeps what was read for the next time; a long conversation that goes on is quick then."""
        self._prefix.close()

    def _answer(
        self,
        turn: UserTurn | None,
        prompt: Prompt,
        sampler: Sampler,
        most_tokens: int,
        generation: Generation,
    ) -> Generator[Event, None, None]:
        try:
            yield from self._run(generation, prompt, sampler, most_tokens)
        # The reader has left: nothing can be yielded any more, but what came is kept.
        except GeneratorExit:
            self._keep(turn, generation)
            raise
        except RotorQuantError as error:
            self._prefix.reset()
            raise RqchatError(f"the KV cache failed: {error}") from error
        except BaseException as error:
            self._prefix.reset()  # nobody knows what it holds
            self._come_back()
            if isinstance(error, KeyboardInterrupt):
                self._keep(turn, generation)
            raise
        self._keep(turn, generation)
        if self._stored and (trouble := self._stored.trouble()):
            yield Notice(trouble)
        yield done_record(generation, prompt, sampler.seed, self._loaded, self._plan)

    def _run(
        self, generation: Generation, prompt: Prompt, sampler: Sampler, most_tokens: int
    ) -> Iterator[Event]:
        """`generation.run`, which goes on with a smaller plan when memory runs out."""
        while True:
            length = len(prompt.token_ids)
            try:
                most_tokens = min(most_tokens, self.context_tokens - length)
                chunk_tokens = self._plan.chosen.chunk_tokens
                yield from generation.run(prompt, sampler, most_tokens, chunk_tokens)
                return
            except torch.OutOfMemoryError:
                needed = length + generation.output_tokens
            # Behind the `except` clause, whose error holds the tensors that did not fit.
            self._plan, said = step_down(self._prefix, self._plan, self._new_cache, needed)
            yield Notice(said)

    def _new_cache(self, plan: MemoryPlan) -> RotorQuantCache:
        return make_cache(OpenedModel(self._loaded, plan, self._model_name))

    def _sampler(self, sampling: SamplingSettings, schema: str | None) -> Sampler:
        loaded = self._loaded
        if sampling.temperature is None:
            sampling = dataclasses.replace(sampling, temperature=loaded.temperature)
        constraint = None
        if schema is not None:
            constraint = self._constraints.for_schema(schema, thinking=self.thinking)
        return Sampler(sampling, constraint, self._suppressed)

    def _keep(self, turn: UserTurn | None, generation: Generation) -> None:
        """Adds question and answer to the conversation; an interruption without text adds none."""
        if turn is None:
            return
        interrupted = generation.stop_reason == "interrupted"
        if interrupted and not generation.answer:
            return
        answer = Message("assistant", generation.answer, interrupted=interrupted)
        self._messages = (*self._messages, turn.message, answer)

    def _write(self, turn: UserTurn) -> Prompt:
        messages = self._with_system(*self._messages, turn.message)
        return self._writer.write(messages, thinking=self.thinking)

    def _with_system(self, *messages: Message) -> tuple[Message, ...]:
        return (Message("system", self.system), *messages) if self.system else messages


def _shared_places(prompt: Prompt) -> tuple[int, ...]:
    """Where to come back to in a conversation whose messages are not taken apart: before the last
    question, however it stands behind its document, and far before it."""
    end = prompt.stable_tokens
    places = [end - before for before in _BEFORE_THE_END if end - before >= _BEFORE_THE_END[-1]]
    inside = [p for p in places if any(span.start < p < span.end for span in prompt.images)]
    return tuple(place for place in places if place not in inside)
