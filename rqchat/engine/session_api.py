"""What a session is to everybody who talks to one: commands, the recorder, receipts. No torch.

`rqchat.engine.session.ChatSession` is one, over a model in this process;
`rqchat.engine.remote.remote_session.RemoteSession` another, over a model at a server elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:  # plans look for GPUs, and lists of conversations are to start fast
    from collections.abc import Generator

    from rqchat.engine.conversation import ContextPart, Message, UserTurn
    from rqchat.engine.events import Event, ModelFacts
    from rqchat.engine.planning.plan import MemoryPlan
    from rqchat.engine.settings import SamplingSettings

__all__ = ["Session"]


@runtime_checkable
class Session(Protocol):
    """One conversation with one model. Not to be shared between threads, but for `interrupt`.

    Attributes:
        system: the system message, or None; a new one holds from the next turn on.
        thinking: whether the model is asked to think before it answers.
    """

    system: str | None
    thinking: bool

    @property
    def plan(self) -> MemoryPlan | None:
        """What was planned and loaded; None where a server elsewhere does so."""

    @property
    def model_name(self) -> str:
        """`pocket`, a hub id, a folder, or a server's address and a model of it."""

    @property
    def facts(self) -> ModelFacts:
        """What besides the plan decides which answer comes out."""

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation without the system message."""

    @property
    def used_tokens(self) -> int:
        """Tokens in the cache."""

    @property
    def context_tokens(self) -> int:
        """Tokens that the plan holds, answers included; 0 where a server does not say."""

    @property
    def used_bytes(self) -> int:
        """Memory that this process holds of the device now."""

    def context_parts(self) -> tuple[ContextPart, ...]:
        """What the conversation consists of, in tokens."""

    def count_tokens(self, turn: UserTurn) -> int:
        """Tokens of the whole prompt that `turn` would make, pictures included."""

    def check(self, turn: UserTurn) -> int:
        """As `count_tokens`, for a turn that `ask` would take. No other work is done.

        Raises:
            ContextLengthError: the prompt leaves no room for an answer.
        """

    def ask(
        self,
        turn: UserTurn,
        sampling: SamplingSettings,
        *,
        begun: str = "",
        schema: str | None = None,
    ) -> Generator[Event, None, None]:
        """Answers `turn`; the conversation has grown by both once `Done` came.

        `begun` is how the answer begins; events then hold only what comes after it. `schema` is a
        JSON schema that the answer matches if it ends. The first event comes before the model
        starts. Closing the generator early keeps the text so far, as an interruption does.

        Raises:
            ContextLengthError: as `check` does, before the first event.
            RqchatError: from the generator, when the answer cannot go on.
        """

    def interrupt(self) -> None:
        """Ends the running answer after the current step. Safe from threads and signal handlers."""

    def restore(self, messages: tuple[Message, ...]) -> None:
        """Goes on from `messages`: user and assistant in turn, an answer at the end."""

    def clear(self) -> None:
        """Forgets the conversation; the system message stays."""

    def close(self) -> None:
        """Keeps what was read for the next time."""
