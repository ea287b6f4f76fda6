"""How an answer ended, and why a prompt gets none: what commands report of either."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rqchat.engine.conversation import ContextKind, ContextPart, Message, Role
from rqchat.engine.events import Done, MemoryUse, Timing, TokenCounts
from rqchat.engine.generation.generate import Generation
from rqchat.engine.generation.prompt import Prompt, PromptWriter
from rqchat.engine.loading.loader import LoadedModel
from rqchat.engine.loading.memory_in_use import peak_bytes
from rqchat.engine.planning.plan import MemoryPlan
from rqchat.engine.settings import KV_BITS
from rqchat.errors import ContextLengthError

__all__ = ["context_parts", "done_record", "too_long"]

_LABEL_CHARACTERS = 60
_ANSWER_TOKENS = 1024  # what a suggested --context leaves for the answer
_KINDS: dict[Role, ContextKind] = {"system": "system", "user": "question", "assistant": "answer"}


def context_parts(
    writer: PromptWriter, messages: Sequence[Message], *, thinking: bool = False
) -> tuple[ContextPart, ...]:
    """The parts of `messages` in their order, and last the frame: what the template adds.

    Their sum is the prompt that an empty next question would make. A document's tokens are
    counted alone, so the lines around it, which name it, are counted with the frame.
    """
    parts = [part for message in messages for part in _parts_of(writer, message)]
    asked = (*messages, Message("user", ""))
    total = len(writer.write(asked, thinking=thinking).token_ids)
    frame = total - sum(part.tokens for part in parts)
    return (*parts, ContextPart("frame", "", frame))


def _parts_of(writer: PromptWriter, message: Message) -> Iterator[ContextPart]:
    for document in message.documents:
        yield ContextPart("document", document.name, len(writer.text_ids(document.text)))
    for picture in message.pictures:
        yield ContextPart("picture", picture.name, writer.soft_tokens(picture))
    if message.text:
        label = " ".join(message.text[: 2 * _LABEL_CHARACTERS].split())[:_LABEL_CHARACTERS]
        yield ContextPart(_KINDS[message.role], label, len(writer.text_ids(message.text)))


def done_record(
    generation: Generation, prompt: Prompt, seed: int, loaded: LoadedModel, plan: MemoryPlan
) -> Done:
    """The record of an answer, measured until now."""
    read = len(prompt.token_ids) - generation.cached_tokens
    return Done(
        stop_reason=generation.stop_reason,
        seed=seed,
        tokens=TokenCounts(
            input=len(prompt.token_ids),
            image=prompt.image_tokens,
            cached=generation.cached_tokens,
            output=generation.output_tokens,
        ),
        timing=Timing(
            load_s=loaded.load_s,
            prefill_s=generation.prefill_s,
            decode_s=generation.decode_s,
            prefill_tokens_per_s=_rate(read, generation.prefill_s),
            decode_tokens_per_s=_rate(generation.output_tokens, generation.decode_s),
        ),
        memory=MemoryUse(
            planned_bytes=plan.chosen.bytes.total,
            peak_bytes=peak_bytes(plan.device),
        ),
    )


def too_long(
    input_tokens: int, plan: MemoryPlan, most_tokens: int, *, goes_on: bool, at_least: bool = False
) -> ContextLengthError:
    """The error for a prompt of so many tokens, with the ways out that there are.

    Args:
        input_tokens: of the whole prompt.
        plan: what the context holds.
        most_tokens: the longest sequence that the model knows.
        goes_on: whether there is a conversation before the question.
        at_least: whether the prompt is even longer, and so long that it was not counted.
    """
    context = plan.chosen.context_tokens
    ways = ["shorten the input"]
    if goes_on:
        ways.append("put a summary for the older turns with /compact in the chat")
    wanted = min(input_tokens + _ANSWER_TOKENS, most_tokens)
    if input_tokens < wanted:
        ways += _longer(plan, input_tokens, wanted)
    return ContextLengthError(
        f"the prompt has {'at least ' if at_least else ''}{input_tokens:,} tokens, but the context"
        f" holds {context:,} with the answer; {', or '.join(ways)}",
        input_tokens=input_tokens,
        context_tokens=context,
    )


def _longer(plan: MemoryPlan, input_tokens: int, wanted_tokens: int) -> list[str]:
    """Options for a context of `wanted_tokens`, or of a little less."""
    chosen = plan.chosen
    # The plan has all that was asked of it, so more may fit.
    if plan.asked_tokens == chosen.context_tokens:
        return [f"ask for --context {wanted_tokens}"]
    for other in plan.candidates:
        if other.context_tokens > input_tokens:
            weights = f"--weights {other.weights} " if other.weights != chosen.weights else ""
            tokens = min(wanted_tokens, other.context_tokens)
            return [f"ask for {weights}--kv-bits {other.kv_bits} --context {tokens}"]
    return ["take fewer bits with --kv-bits or --weights"] if chosen.kv_bits > KV_BITS[0] else []


def _rate(tokens: int, seconds: float) -> float:
    return tokens / seconds if seconds > 0 else 0.0
