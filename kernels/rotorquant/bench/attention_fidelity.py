"""How much of a model's attention survives a way to store its keys and values.

Synthetic vectors first; with `--model` a real model, scored on tokens that read packed pages.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
import transformers

from rotorquant.bench.synthetic import HEAD_DIM, SyntheticRow, measure, theory
from rotorquant.bench.vectors import KINDS
from rotorquant.config import BLOCK_BITS
from rotorquant.fidelity.kl_divergence import ModelRow, ModelRun
from rotorquant.fidelity.methods import Method, methods

__all__ = ["SUMMARY", "add_arguments", "run"]

SUMMARY = "error of keys, values and attention, and KL divergence on a model"
_NAME = 17


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `fidelity`."""
    widths = (2, 3, 4, 5, 6, 8)
    parser.add_argument("--bits", type=int, nargs="+", choices=widths, default=widths)
    parser.add_argument("--vectors", type=int, default=2048, help="synthetic tokens; 0 for none")
    parser.add_argument("--model", type=Path, help="folder of a transformers model, or a GGUF file")
    parser.add_argument("--text", type=Path, help="texts; else the model writes one")
    parser.add_argument("--tokens", type=int, default=2048, help="to score")
    parser.add_argument("--score", type=int, help="tokens of each text to score; all by default")
    parser.add_argument("--every-token", action="store_true", help="also those of no model's turn")
    parser.add_argument("--dtype", default="auto", choices=("auto", "bfloat16", "float32"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="+", help="names of methods to run")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> Iterator[str]:
    """Lines of the report; the last one is JSON."""
    chosen = [m for m in methods(options.bits) if not options.only or m.name in options.only]
    synthetic: list[SyntheticRow] = []
    scored: list[ModelRow] = []
    if options.vectors:
        yield from _synthetic(chosen, options.vectors, synthetic)
    if options.model is not None:
        run_of_model = ModelRun.open(
            options.model,
            options.text,
            options.tokens,
            options.device,
            dtype=options.dtype,
            every_token=options.every_token,
            most=options.score,
        )
        yield from _model(run_of_model, chosen, scored)
    yield json.dumps(
        {
            "bench": "fidelity",
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "machine": platform.machine(),
            "device": options.device,
            "synthetic": [asdict(row) for row in synthetic],
            "model": [asdict(row) for row in scored],
        }
    )


def _synthetic(chosen: list[Method], tokens: int, rows: list[SyntheticRow]) -> Iterator[str]:
    yield f"Synthetic, {tokens} tokens, heads of {HEAD_DIM}. Bits per value count all overhead."
    yield "Bytes are per token and KV head. V: relative error of values; QK: of scores, less what"
    yield "is common to a query; out: of the attention output."
    yield from (f"  {kind:<9} {what}" for kind, what in KINDS.items())
    columns = [("unit", "vector", "V"), ("outliers", "vector", "V"), ("offset", "vector", "V")]
    columns += [("offset", "logit", "QK"), ("inverse", "logit", "QK"), ("mixed", "logit", "QK")]
    columns += [("mixed", "output", "out")]
    heads = "".join(f"{kind + ' ' + short:>13}" for kind, _, short in columns)
    yield f"{'method':<{_NAME}}{'bits':>5}{'bits/value':>12}{'bytes':>7}{'theory':>10}{heads}"
    for method in chosen:
        row = measure(method, tokens)
        rows.append(row)
        cells = [f"{getattr(row.errors[kind], field):>13.3g}" for kind, field, _ in columns]
        bound = (
            "" if row.bits == 16 or method.config.mode in BLOCK_BITS else f"{theory(row.bits):.3g}"
        )
        yield (
            f"{row.name:<{_NAME}}{row.bits:>5}{row.bits_per_value:>12.3f}{row.token_bytes:>7}"
            f"{bound:>10}{''.join(cells)}"
        )
    yield ""


def _model(run_of_model: ModelRun, chosen: list[Method], rows: list[ModelRow]) -> Iterator[str]:
    yield run_of_model.describe()
    heads = "".join(
        f"{head:>11}"
        for head in ("mean KLD", "+-", "median", "99 %", "top-1", "1 - TV", "perplexity")
    )
    yield f"{'method':<{_NAME}}{'bits':>5}{'B/token':>9}{heads}  stored as"
    for row in run_of_model.score_all(chosen):
        rows.append(row)
        yield (
            f"{row.name:<{_NAME}}{row.bits:>5}{row.token_bytes:>9.0f}{row.mean:>11.3g}"
            f"{row.mean_error:>11.2g}{row.median:>11.3g}{row.high:>11.3g}{row.top_1:>11.4f}"
            f"{row.overlap:>11.4f}{row.perplexity:>11.4f}"
            f"  {row.stored}"
        )
    yield ""
