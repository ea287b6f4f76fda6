"""One conversation with a model at a server elsewhere: the second kind of `Session`. No torch."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, Self

from rqchat.engine.conversation import ContextKind, ContextPart, Message, Role, UserTurn
from rqchat.engine.events import Event, ModelFacts, Notice, PrefillProgress, ignore
from rqchat.engine.remote.address import ServerAddress
from rqchat.engine.remote.answer_schema import check_answer, response_format
from rqchat.engine.remote.answer_stream import AnswerStream
from rqchat.engine.remote.chat_messages import ChatMessages
from rqchat.engine.remote.connection import Connection, Interrupted, ServerError
from rqchat.engine.remote.refusals import as_too_long, cut_unsaid, too_long, unknown_field
from rqchat.engine.remote.server_facts import ServedModel, find_model
from rqchat.engine.remote.server_key import read_key
from rqchat.engine.remote.token_counter import TokenCounter, estimate
from rqchat.engine.settings import SamplingSettings, Settings
from rqchat.errors import InputError, UsageError

__all__ = ["RemoteSession"]

_TEMPERATURE = 1.0  # Gemma 4's model card; servers' own defaults misread pictures
_LABEL_CHARACTERS = 60
# Left out where a strict server refuses them
_OPTIONAL = (
    *("seed", "top_k", "min_p", "top_p", "temperature", "chat_template_kwargs", "return_progress"),
    *("repetition_penalty", "repeat_penalty", "add_generation_prompt", "continue_final_message"),
)
_KINDS: dict[Role, ContextKind] = {"system": "system", "user": "question", "assistant": "answer"}


class RemoteSession:
    """A conversation. Not to be shared between threads, but for `interrupt`.

    Attributes:
        system: the system message, or None; a new one holds from the next turn on.
        thinking: whether the model is asked to think before it answers.
    """

    def __init__(
        self, connection: Connection, model: ServedModel, context_tokens: int, load_s: float
    ) -> None:
        """Most callers want `open`."""
        self.system: str | None = None
        self.thinking = False
        self._connection, self._model = connection, model
        self._context_tokens, self._load_s = context_tokens, load_s
        self._writer = ChatMessages()
        self._counter = TokenCounter(connection, model.name, self._writer)
        self._messages: tuple[Message, ...] = ()
        self._used_tokens = 0
        self._left_out: set[str] = set()  # fields that the server does not know
        self._has_said_estimate = False

    @classmethod
    def open(
        cls,
        address: ServerAddress,
        settings: Settings,
        *,
        system: str | None = None,
        on_event: Callable[[Event], None] = ignore,
    ) -> Self:
        """Finds the model and its context; `on_event` gets `Notice` and `LoadProgress`.

        Raises:
            RqchatError: the server cannot be reached, or has no such model.
        """
        if settings.offline and not address.is_loopback:
            raise UsageError(
                f"{address.host} is not this machine, and --offline (or HF_HUB_OFFLINE) says never"
                " to touch the network; leave that out to ask it"
            )
        begun_s = time.monotonic()
        key = read_key(address, settings.key_file)
        if not address.is_loopback:
            unsafe = "" if address.is_encrypted else ", unencrypted"
            on_event(Notice(f"what you ask goes to {address.host}{unsafe}"))
        connection = Connection(address, key)
        try:
            model = find_model(connection, address.model, on_event)
        except BaseException:
            connection.close()
            raise
        context = _context(settings.context_tokens, model, address.host)
        if not context:
            on_event(
                Notice(
                    f"{address.host} does not say how long its context is; with --context N a"
                    " prompt that is too long is noticed before it is sent"
                )
            )
        session = cls(connection, model, context, time.monotonic() - begun_s)
        session.system = system
        return session

    @property
    def plan(self) -> None:
        """The server plans its own memory."""
        return None

    @property
    def model_name(self) -> str:
        """Address and model, such as `http://localhost:8000/v1#google/gemma-4-31B-it`."""
        return self._connection.address.named(self._model.name)

    @property
    def facts(self) -> ModelFacts:
        """What is known of the model, which is its temperature."""
        return ModelFacts(revision="", kv_mode="", temperature=_TEMPERATURE, torch="")

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation without the system message."""
        return self._messages

    @property
    def used_tokens(self) -> int:
        """Tokens of the last prompt and its answer."""
        return self._used_tokens

    @property
    def context_tokens(self) -> int:
        """Tokens that the server's context holds, answers included; 0 where that is not known."""
        return self._context_tokens

    @property
    def used_bytes(self) -> int:
        """Nothing here."""
        return 0

    def context_parts(self) -> tuple[ContextPart, ...]:
        """What the conversation consists of, in tokens; estimated where nobody counts."""
        messages = self._with_system(*self._messages)
        empty = self._rough(Message("user", ""))
        parts = [part for message in messages for part in self._parts_of(message, empty)]
        total = self._rough(*messages, Message("user", ""))
        frame = max(total - sum(part.tokens for part in parts), 0)
        return (*parts, ContextPart("frame", "", frame))

    def count_tokens(self, turn: UserTurn) -> int:
        """Tokens of the whole prompt that `turn` would make, pictures included."""
        return self._count(self._prompt(turn, ""))

    def check(self, turn: UserTurn) -> int:
        """As `count_tokens`, for a turn that `ask` would take.

        Raises:
            ContextLengthError: the prompt leaves no room for an answer.
            InputError: the model sees no pictures.
        """
        return self._checked(self._prompt(turn, ""))

    def ask(
        self,
        turn: UserTurn,
        sampling: SamplingSettings,
        *,
        begun: str = "",
        schema: str | None = None,
    ) -> Generator[Event, None, None]:
        """Answers `turn`; the conversation has grown by both once `Done` came.

        `begun` is how the answer begins; events then hold only what comes after it. An answer to a
        `schema` is checked at its end. Closing the generator early keeps the text so far.

        Raises:
            ContextLengthError: at once, when the prompt leaves no room for an answer; from the
                generator, when the server says so, or cut the prompt without a word.
            RqchatError: from the generator, when the answer breaks off or does not match.
        """
        self._connection.ready()
        prompt = self._prompt(turn, begun)
        input_tokens = self._checked(prompt)
        seed = secrets.randbelow(2**31) if sampling.seed is None else sampling.seed
        body = self._body(prompt, sampling, seed, schema, begun)
        left_tokens = self._context_tokens - input_tokens
        if "max_tokens" in body and self._counter.is_exact and left_tokens > 0:
            body["max_tokens"] = min(body["max_tokens"], left_tokens)  # vLLM refuses more
        return self._answer(turn, prompt, input_tokens, body, begun, schema)

    def interrupt(self) -> None:
        """Ends the running answer and closes its connection. Safe from threads and signals."""
        self._connection.interrupt()

    def restore(self, messages: tuple[Message, ...]) -> None:
        """Goes on from `messages`: user and assistant in turn, an answer at the end."""
        roles = [message.role for message in messages]
        assert roles == ["user", "assistant"] * (len(roles) // 2), roles
        self._messages = messages

    def clear(self) -> None:
        """Forgets the conversation; the system message stays."""
        self._messages, self._used_tokens = (), 0

    def close(self) -> None:
        """Closes the line; what was read, the server may still have."""
        self._connection.close()

    def _answer(
        self,
        turn: UserTurn,
        prompt: tuple[Message, ...],
        input_tokens: int,
        body: dict[str, Any],
        begun: str,
        schema: str | None,
    ) -> Generator[Event, None, None]:
        stream = AnswerStream(input_tokens, self._load_s, is_json=schema is not None)
        seed: int = body.get("seed", 0)  # 0 where the server takes none
        yield PrefillProgress(0, input_tokens, 0, 0.0)
        if not self._counter.is_exact and not self._has_said_estimate:
            self._has_said_estimate = True
            yield Notice(
                f"{self._connection.address.host} cannot count tokens: that the prompt has about"
                f" {input_tokens:,} is an estimate"
            )
        try:
            for chunk in self._chunks(prompt, input_tokens, body):
                if isinstance(chunk, Notice):
                    yield chunk
                    continue
                yield from stream.events(chunk)
                if stream.is_blank_loop:
                    break
        except Interrupted:
            self._keep(turn, begun + stream.text, interrupted=True)
            yield stream.done("interrupted", seed)
            return
        except (GeneratorExit, KeyboardInterrupt):
            self._keep(turn, begun + stream.text, interrupted=True)
            raise
        reason = "repetition" if stream.is_blank_loop else stream.stop_reason()
        self._check_whole(prompt, stream.prompt_tokens)
        if schema is not None and reason == "eos":
            check_answer(begun + stream.text, schema)
        done = stream.done(reason, seed)
        self._used_tokens = done.tokens.input + done.tokens.output
        self._keep(turn, begun + stream.text, interrupted=False)
        yield done

    def _chunks(
        self, prompt: tuple[Message, ...], input_tokens: int, body: dict[str, Any]
    ) -> Iterator[Mapping[str, Any] | Notice]:
        """The server's chunks; asks again without a field that it refuses, and says so."""
        while True:
            try:
                yield from self._connection.stream(body)
                return
            except ServerError as error:
                known = input_tokens if self._counter.is_exact else 0
                long = as_too_long(error, known, self._context_tokens, goes_on=len(prompt) > 2)
                if long is not None:
                    raise long from None
                extras = [name for name in body if name in _OPTIONAL]
                field = unknown_field(error, extras)
                if field is None:
                    raise
            del body[field]
            self._left_out.add(field)
            yield Notice(f"{self._connection.address.host} does not take {field}: left out")

    def _body(
        self,
        prompt: tuple[Message, ...],
        sampling: SamplingSettings,
        seed: int,
        schema: str | None,
        begun: str,
    ) -> dict[str, Any]:
        heat = sampling.temperature
        body: dict[str, Any] = {
            "model": self._model.name,
            "messages": self._writer.openai(prompt),
            "temperature": _TEMPERATURE if heat is None else heat,
            "top_p": sampling.top_p,
            "seed": seed,
            # What follows is not OpenAI's
            "top_k": sampling.top_k or -1,
            "min_p": sampling.min_p,
            "chat_template_kwargs": {"enable_thinking": self.thinking},
            "return_progress": True,
        }
        if sampling.max_tokens is not None:
            body["max_tokens"] = sampling.max_tokens
        if sampling.repetition_penalty != 1.0:
            # vLLM's and SGLang's name, llama.cpp's name
            body["repetition_penalty"] = body["repeat_penalty"] = sampling.repetition_penalty
        if schema is not None:
            body["response_format"] = response_format(schema)
        if begun:
            body |= {"add_generation_prompt": False, "continue_final_message": True}
        return {name: value for name, value in body.items() if name not in self._left_out}

    def _prompt(self, turn: UserTurn, begun: str) -> tuple[Message, ...]:
        messages = self._with_system(*self._messages, turn.message)
        return (*messages, Message("assistant", begun)) if begun else messages

    def _checked(self, prompt: tuple[Message, ...]) -> int:
        if self._model.sees_pictures is False and any(each.pictures for each in prompt):
            raise InputError(f"{self._model.name} sees no pictures; leave them out")
        context, goes_on = self._context_tokens, len(prompt) > 2
        least = estimate(prompt).least
        if context and least >= context:  # not worth the upload
            raise too_long(least, context, goes_on=goes_on, about="at least ")
        tokens = self._count(prompt)
        if context and self._counter.is_exact and tokens >= context:
            raise too_long(tokens, context, goes_on=goes_on)
        return tokens

    def _check_whole(self, prompt: tuple[Message, ...], read_tokens: int) -> None:
        """Servers exist that cut a prompt and answer as if nothing were."""
        least = estimate(prompt).least
        if 0 < read_tokens < least:
            raise cut_unsaid(self._connection.address.host, read_tokens, least)

    def _count(self, messages: tuple[Message, ...]) -> int:
        return self._counter.count(messages, thinking=self.thinking)

    def _rough(self, *messages: Message) -> int:
        return self._counter.rough(messages, thinking=self.thinking)

    def _parts_of(self, message: Message, empty_tokens: int) -> Iterator[ContextPart]:
        for document in message.documents:
            alone = Message("user", "", documents=(document,))
            yield ContextPart("document", document.name, self._rough(alone) - empty_tokens)
        for picture in message.pictures:
            alone = Message("user", "", pictures=(picture,))
            yield ContextPart("picture", picture.name, self._rough(alone) - empty_tokens)
        if message.text:
            label = " ".join(message.text[: 2 * _LABEL_CHARACTERS].split())[:_LABEL_CHARACTERS]
            tokens = self._rough(Message("user", message.text)) - empty_tokens
            yield ContextPart(_KINDS[message.role], label, tokens)

    def _keep(self, turn: UserTurn, text: str, *, interrupted: bool) -> None:
        """Adds question and answer to the conversation; an interruption without text adds none."""
        if interrupted and not text:
            return
        answer = Message("assistant", text, interrupted=interrupted)
        self._messages = (*self._messages, turn.message, answer)

    def _with_system(self, *messages: Message) -> tuple[Message, ...]:
        return (Message("system", self.system), *messages) if self.system else messages


def _context(asked_tokens: int | None, model: ServedModel, host: str) -> int:
    """What the context holds; 0 where neither server nor user says."""
    if asked_tokens is not None and 0 < model.context_tokens < asked_tokens:
        raise UsageError(
            f"--context is {asked_tokens:,}; {model.name} at {host} holds"
            f" {model.context_tokens:,}: ask for that or fewer, or leave it out"
        )
    return asked_tokens or model.context_tokens
