"""A context that was read, without reading it: a cache filled with random keys and values.

Reading 256K tokens with 31 billion weights takes minutes on any card, and what a cache occupies
does not depend on what was read. Every token goes through the cache's own `update`, chunk by chunk,
so rings, exact windows and packed pages are those of a prompt of that length.
"""

from __future__ import annotations

from typing import Any

import torch

from rqchat.engine.generation.prompt import Prompt
from rqchat.engine.session import ChatSession

__all__ = ["fill_cache", "prefill"]

_FILL_TOKENS = 4096
_REAL_CHUNKS = 2  # text left to read before the picture


def prefill(session: ChatSession, prompt: Prompt) -> int:
    """Makes `session` hold the beginning of `prompt`; how many tokens that are.

    What is left is a text of two chunks at least, the picture, and the question.
    """
    chunk_tokens, prefix = session.plan.chosen.chunk_tokens, session._prefix
    ahead = prompt.images[0].start if prompt.images else prompt.content_tokens
    tokens = max(ahead - _REAL_CHUNKS * chunk_tokens, 0)
    prefix.reset()
    fill_cache(session._loaded.model, prefix.cache, tokens, chunk_tokens)
    prefix.extend(prompt.keys[:tokens])
    if tokens:
        prefix.mark()
    return tokens


def fill_cache(model: Any, cache: Any, tokens: int, chunk_tokens: int) -> None:
    """Stores `tokens` random tokens in the empty `cache` of `model`, the last ones in chunks."""
    text = model.model.language_model
    draw = torch.Generator(model.device).manual_seed(0)
    done = 0
    with torch.no_grad():
        while done < tokens:
            left = tokens - done - 2 * chunk_tokens
            step = min(_FILL_TOKENS if left >= _FILL_TOKENS else chunk_tokens, tokens - done)
            places = torch.arange(done, done + step, device=model.device).unsqueeze(0)
            # The cache takes positions from here, as it does in a forward pass
            nothing = torch.empty(1, 0, device=model.device, dtype=model.dtype)
            text.rotary_emb(nothing, places, text.config.layer_types[0])
            for layer in text.layers:
                _store(layer.self_attn, cache, step, draw, model)
            done += step


def _store(attention: Any, cache: Any, tokens: int, draw: torch.Generator, model: Any) -> None:
    if attention.is_kv_shared_layer:
        return
    heads = attention.k_proj.out_features // attention.head_dim
    shape = 1, heads, tokens, attention.head_dim
    key, value = (
        torch.randn(shape, generator=draw, device=model.device).to(model.dtype) for _ in range(2)
    )
    cache.update(key, value, attention.layer_idx)
