"""Out of memory in the middle of an answer: what is given up so that the conversation goes on.

First long prefill steps; then bits of the KV cache, by packing the live one again, which keeps
what was read; then half of the context, which is read again. What was asked and answered is never
lost. An emptied conversation, and the next question after nothing helped, begin with the whole plan
again (`ChatSession`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from rotorquant import RotorQuantCache
from rqchat.engine.generation.cached_prefix import CachedPrefix
from rqchat.engine.planning.memory import short_chunk
from rqchat.engine.planning.plan import MemoryPlan
from rqchat.engine.settings import KV_BITS
from rqchat.errors import RqchatError

__all__ = ["step_down"]

_CONTEXT_STEP_TOKENS = 64


def step_down(
    prefix: CachedPrefix,
    plan: MemoryPlan,
    make_cache: Callable[[MemoryPlan], RotorQuantCache],
    needed_tokens: int,
) -> tuple[MemoryPlan, str]:
    """The plan to go on with, one step smaller, and a line that says so; `prefix` follows it.

    The plan's bytes stay those that were promised. Call it outside of the `except` clause: the
    error's frames hold the tensors that did not fit.

    Args:
        prefix: with a cache whose last step may have broken off; ready for the next one after.
        plan: the one that was too much.
        make_cache: an empty cache for a plan.
        needed_tokens: the context that the running answer needs at least.

    Raises:
        RqchatError: there is nothing left to give up.
    """
    chosen, shortest = plan.chosen, short_chunk(plan.image_tokens)
    fewer = [bits for bits in KV_BITS if bits < chosen.kv_bits]
    if chosen.chunk_tokens > shortest:
        smaller = _replaced(plan, chunk_tokens=shortest)
        said = f"{shortest:,} instead of {chosen.chunk_tokens:,} tokens of a prompt at a time"
    elif fewer:
        smaller = _replaced(plan, kv_bits=max(fewer))
        said = f"{max(fewer)} instead of {chosen.kv_bits} bits of KV cache"
    else:
        halved = chosen.context_tokens // 2 // _CONTEXT_STEP_TOKENS * _CONTEXT_STEP_TOKENS
        if halved <= needed_tokens:
            prefix.reset()
            raise RqchatError(
                "out of memory; the conversation is as it was. Nothing is left to give up for this"
                " answer: close other programs and ask again, which tries the whole plan anew, or"
                " start with a shorter --context or fewer bits with --weights"
            )
        smaller = _replaced(plan, context_tokens=halved)
        said = f"a context of {halved:,} instead of {chosen.context_tokens:,} tokens"
    shorter = smaller.chosen.context_tokens < chosen.context_tokens
    if shorter or not _repacked(prefix, smaller.chosen.kv_bits):
        prefix.replace(lambda: make_cache(smaller))
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return smaller, f"out of memory: going on with {said}"


def _replaced(plan: MemoryPlan, **changes: Any) -> MemoryPlan:
    return dataclasses.replace(plan, chosen=dataclasses.replace(plan.chosen, **changes))


def _repacked(prefix: CachedPrefix, bits: int) -> bool:
    """Whether what the cache holds could be packed into `bits`; that takes memory of its own."""
    try:
        prefix.recover()
        prefix.cache.repack(bits)
    except torch.OutOfMemoryError:
        return False
    return True
