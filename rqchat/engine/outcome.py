"""How an answer ended, and why a prompt gets none: what commands report of either."""

from __future__ import annotations

from rqchat.engine.events import Done, MemoryUse, Timing, TokenCounts
from rqchat.engine.generate import Generation
from rqchat.engine.loader import LoadedModel
from rqchat.engine.occupancy import peak_bytes
from rqchat.engine.plan import MemoryPlan
from rqchat.engine.prompt import Prompt
from rqchat.errors import ContextLengthError

__all__ = ["done_record", "too_long"]

_ANSWER_ROOM_TOKENS = 1024  # what a suggested --context leaves for the answer


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
    input_tokens: int, plan: MemoryPlan, loaded: LoadedModel, goes_on: bool
) -> ContextLengthError:
    """The error for a prompt of so many tokens, with the ways out that there are.

    Args:
        input_tokens: of the whole prompt.
        plan: what the context holds.
        loaded: the model, which has a maximum of its own.
        goes_on: whether there is a conversation to clear.
    """
    context = plan.chosen.context_tokens
    config = loaded.model.config.get_text_config()
    wanted = min(input_tokens + _ANSWER_ROOM_TOKENS, config.max_position_embeddings)
    ways = ["shorten the input"]
    if goes_on:
        ways.append("clear the conversation")
    if plan.asked_tokens == context and input_tokens < wanted:
        ways.append(f"ask for --context {wanted}")
    elif any(candidate.context_tokens > input_tokens for candidate in plan.candidates):
        ways.append(f"take fewer bits with --kv-bits or --weights and --context {wanted}")
    return ContextLengthError(
        f"the prompt has {input_tokens:,} tokens, but the context holds {context:,} with the"
        f" answer; {', or '.join(ways)}",
        input_tokens=input_tokens,
        context_tokens=context,
    )


def _rate(tokens: int, seconds: float) -> float:
    return tokens / seconds if seconds > 0 else 0.0
