"""`python -m rqchat.bench loss`: what each rung of weights costs a model.

The model reads the Python reference's prose once with the checkpoint's own weights (float32 on a
CPU) and once with each rung, the cache in full both times; a row is the KL divergence in nats of
the next token's distribution from the former.
"""

from __future__ import annotations

import argparse
import gc
import sys
from pydoc_data.topics import topics
from typing import Any

import torch

from rqchat.engine.loading.open_model import open_model
from rqchat.engine.settings import WEIGHTS, Settings
from rqchat.errors import RqchatError

__all__ = ["run_loss"]

_TOKENS = 2000
_LEAST_CHARACTERS_PER_TOKEN = 8


def run_loss(model: str, tokens: int) -> None:
    """Prints a row for each rung."""
    ids, exact = _read(model, None, tokens)
    reference = exact.log_softmax(-1)
    sys.stdout.write(f"{model}, {len(ids)} tokens\nweights   mean     median   99 %     top 1\n")
    for weights in WEIGHTS:
        try:
            _, logits = _read(model, weights, tokens)
        except RqchatError as error:
            sys.stdout.write(f"{weights:9} {error}\n")
            continue
        found = logits.log_softmax(-1)
        loss = (reference.exp() * (reference - found)).sum(-1)
        same = (found.argmax(-1) == reference.argmax(-1)).float().mean()
        sys.stdout.write(
            f"{weights:9} {loss.mean():.5f}  {loss.median():.5f}  {loss.quantile(0.99):.5f}"
            f"  {same:.1%}\n"
        )


def _read(model: str, weights: str | None, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids [tokens] and the logits [tokens, vocabulary] in float32 after each of them."""
    gc.collect()
    settings = Settings(model=model, weights=weights, kv_bits=16, context_tokens=tokens)
    loaded = open_model(settings, lambda event: None).loaded
    prose = "\n\n".join(topics[name] for name in sorted(topics))
    text = prose[: tokens * _LEAST_CHARACTERS_PER_TOKEN]
    tokenizer: Any = loaded.tokenizer
    found = tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([tokenizer.bos_token_id, *found])[:tokens]
    with torch.no_grad():
        out = loaded.model(input_ids=ids[None].to(loaded.model.device), use_cache=False)
    return ids, out.logits[0].float().cpu()


def main() -> None:
    """Reads what `rqchat.bench` has let through."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--tokens", type=int, default=_TOKENS)
    arguments, _ = parser.parse_known_args()
    run_loss(arguments.model, arguments.tokens)


if __name__ == "__main__":
    main()
