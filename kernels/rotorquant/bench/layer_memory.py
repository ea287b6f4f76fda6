"""What one global layer of Gemma 4 31B takes while a long prompt is read, measured on the process.

Chunk after chunk is stored, and the last one attends to all tokens, which is where the peak lies:
its queries and output, the float32 tiles of scores and values, and the exact latest tokens. The
peak is the resident size of the process (Linux counts it), less what it was before the first
chunk and what the layer keeps.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from rotorquant.attend.tied_key import TiedKey
from rotorquant.attend.views import Queries
from rotorquant.config import RotorQuantConfig
from rotorquant.exceptions import ConfigError
from rotorquant.layers.buffers import Meter
from rotorquant.layers.finite_check import FiniteCheck, LayerContext
from rotorquant.layers.global_layer import GlobalLayer
from rotorquant.layers.positions import PositionLog
from rotorquant.layout import GlobalLayout

__all__ = ["SUMMARY", "add_arguments", "run"]

SUMMARY = "bytes of a filled layer, and the peak while a prompt is read"
_HEADS, _GROUP, _HEAD_DIM = 4, 8, 512
_PAIRS = 64


class _Rotary(nn.Module):
    """Frequencies, and a call for the log of positions to listen to."""

    def __init__(self) -> None:
        super().__init__()
        frequencies = 1e6 ** (-2.0 * torch.arange(_PAIRS) / _HEAD_DIM)
        self.weight = nn.Parameter(torch.full((_HEAD_DIM,), 0.1), requires_grad=False)
        self.register_buffer("inv_freq", frequencies)

    def forward(self, position_ids: torch.Tensor) -> None:
        """Does nothing itself; the hook of the position log reads the argument."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `memory`."""
    parser.add_argument("--bits", type=int, default=4, choices=(2, 3, 4, 5, 6, 8))
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--chunk", type=int, default=1024, help="tokens read at once")
    parser.set_defaults(run=run)


@torch.no_grad()
def run(options: argparse.Namespace) -> Iterator[str]:
    """Lines of the report; the last one is JSON.

    Raises:
        ConfigError: this system does not count resident pages as Linux does.
    """
    before = _resident_bytes()
    layer = _fill(options)
    # Linux counts `ru_maxrss` in KiB.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    extra = peak - before - layer.nbytes
    form = GlobalLayout(_HEADS, _HEAD_DIM, tied=True, bits=options.bits)
    rows = layer.tensors()["packed"]
    token = sum(field.nbytes for field in rows) / rows[0].shape[2]
    exact = layer.nbytes - sum(field.nbytes for field in rows)
    yield f"one tied global layer, 4 KV heads of 512, {options.bits} bits, {options.tokens} tokens"
    yield f"a packed token: {token:,.0f} bytes; by the layout {form.packed_token_bytes:,}"
    yield f"packed {layer.packed_tokens:,} tokens; the layer {layer.nbytes / 1e6:,.1f} MB"
    yield f"exact tokens and the last chunk, which stays exact: {exact / 1e6:,.1f} MB of it"
    yield f"chunks of {options.chunk}: {extra / 1e6:,.0f} MB more at the peak"
    yield json.dumps(
        {
            "bench": "memory",
            "torch": torch.__version__,
            "machine": platform.machine(),
            "tokens": options.tokens,
            "chunk": options.chunk,
            "bits": options.bits,
            "token_bytes": token,
            "layer_bytes": layer.nbytes,
            "extra_bytes": extra,
        }
    )


def _fill(options: argparse.Namespace) -> GlobalLayer:
    """The layer after all chunks; the last one has attended."""
    rotary = _Rotary()
    tie = TiedKey(rotary, rotary, "inv_freq", _PAIRS)
    meter = Meter()
    context = LayerContext(lambda: True, meter, FiniteCheck())
    positions = PositionLog(rotary, options.tokens, meter)
    config = RotorQuantConfig(options.bits, max_tokens=options.tokens)
    layer = GlobalLayer(config, tie, positions, context)
    draw = torch.Generator().manual_seed(0)
    for low in range(0, options.tokens, options.chunk):
        tokens = min(options.chunk, options.tokens - low)
        value = torch.randn(1, _HEADS, tokens, _HEAD_DIM, generator=draw).to(torch.bfloat16)
        places = torch.arange(low, low + tokens)[None]
        rotary(position_ids=places)
        key = tie.rebuild(value, places)
        layer.update(key, value)
        if low + tokens == options.tokens:
            shape = 1, _HEADS * _GROUP, tokens, _HEAD_DIM
            query = torch.randn(*shape, generator=draw).to(torch.bfloat16)
            layer.attend(Queries(query, _HEAD_DIM**-0.5), key)
    return layer


def _resident_bytes() -> int:
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError as error:
        raise ConfigError(f"the resident size cannot be read here: {error}") from error
    return int(pages) * resource.getpagesize()
