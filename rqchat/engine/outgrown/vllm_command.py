"""The commands that start vLLM on the cards that were chosen. No torch."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from rqchat.engine.outgrown.vllm_memory import MEMORY_SHARE, STEP_TOKENS, Cards, Demand
from rqchat.engine.planning.known_models import known_model
from rqchat.errors import UsageError

__all__ = ["KV_BYTES", "WEIGHT_BYTES", "commands", "served_name"]

KV_BYTES = {None: 2, 16: 2, 8: 1}
"""Bytes of a KV value by `--kv-bits`: vLLM has 16 bits, and 8 as fp8."""

WEIGHT_BYTES = ("bf16", "int8", "int4")
"""Weights that vLLM has for Gemma 4: as published, fp8 made while loading, Google's 4 bits."""

_PORT, _ROUTER_PORT, _RAY_PORT = 8000, 8080, 6379


def served_name(model: str, weights: str) -> str:
    """The hub id that vLLM loads.

    Raises:
        UsageError: there is none in that format.
    """
    if weights != "int4":
        return model
    known = known_model(model)
    if known is None or not known.has_qat:
        raise UsageError(
            f"there is no 4-bit checkpoint of {model} that vLLM splits over cards; take"
            " --weights int8 or bf16"
        )
    return known.packed_repository


def commands(model: str, demand: Demand, cards: Cards) -> Iterator[str]:
    """Lines for a shell, with comments: what to start, and where."""
    serve = ["vllm", "serve", served_name(model, demand.weights)]
    serve += ["--tensor-parallel-size", str(cards.tensor_parallel)]
    if cards.stages > 1:
        serve += ["--pipeline-parallel-size", str(cards.stages)]
        serve += ["--distributed-executor-backend", "ray"]
    serve += ["--max-model-len", str(demand.context_tokens)]
    serve += ["--max-num-seqs", str(cards.users_each)]
    serve += ["--max-num-batched-tokens", str(STEP_TOKENS)]
    serve += ["--gpu-memory-utilization", str(MEMORY_SHARE)]
    if demand.weights == "int8":
        serve += ["--quantization", "fp8"]
    if demand.kv_bytes == 1:
        serve += ["--kv-cache-dtype", "fp8"]
    serve += ["--reasoning-parser", "gemma4"]
    serve += ["--enable-auto-tool-choice", "--tool-call-parser", "gemma4"]
    serve += ["--port", str(_PORT)]
    if cards.stages > 1:
        head = "HEAD" if cards.replicas == 1 else "the first machine of each group"
        yield f"ray start --head --port={_RAY_PORT}   # on {head}"
        yield f"ray start --address=HEAD:{_RAY_PORT}   # on the {cards.stages - 1} other(s)"
    if cards.replicas > 1:
        each = cards.tensor_parallel * cards.stages
        yield f"# {cards.replicas} servers of {each} cards, HOST1 to HOST{cards.replicas}:"
    yield shlex.join(serve)
    where = f"HOST:{_PORT}"
    if cards.replicas > 1:
        hosts = " ".join(f"http://HOST{n}:{_PORT}" for n in range(1, cards.replicas + 1))
        yield "# in front of them, so that a conversation stays where its prefix lies:"
        yield (
            f"vllm-router --worker-urls {hosts} --policy cache_aware --host 0.0.0.0"
            f" --port {_ROUTER_PORT}"
        )
        where = f"ROUTER:{_ROUTER_PORT}"
    yield "# and for each user (the key of VLLM_API_KEY at the server in RQCHAT_API_KEY):"
    yield f"rqchat --server http://{where}"
