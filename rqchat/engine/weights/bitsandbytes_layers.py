"""Linear layers that bitsandbytes quantizes and multiplies: LLM.int8 and NF4.

It is imported when a layer is made: it takes a second, and no plan takes its two rungs unasked.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Any

import torch
from torch import nn

from rqchat.errors import ModelError

__all__ = ["bitsandbytes_linear"]

_OUTLIER_THRESHOLD = 6.0  # activations beyond it are multiplied in 16 bits (LLM.int8, 2022)


def bitsandbytes_linear(weight: torch.Tensor, bias: torch.Tensor | None, weights: str) -> nn.Module:
    """A layer over `weight` [rows, columns], quantized on its device.

    Args:
        weight: in the dtype that products are to have.
        bias: [rows], or None.
        weights: `int8-bnb` or `nf4`.

    Raises:
        ModelError: bitsandbytes is not installed.
    """
    # It says at every product that 16-bit activations become float16
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        bnb: Any = import_module("bitsandbytes")
    except ImportError:
        raise ModelError(
            f"{weights} weights need the package bitsandbytes: pip install bitsandbytes; without"
            " it take --weights int8 or int4"
        ) from None
    rows, columns = weight.shape
    if weights == "int8-bnb":
        return _int8(bnb, weight, bias, rows, columns)
    layer: Any = bnb.nn.Linear4bit(
        columns, rows, bias=False, compute_dtype=weight.dtype, quant_type="nf4", device="meta"
    )
    parameter = bnb.nn.Params4bit(
        weight, requires_grad=False, compress_statistics=True, quant_type="nf4", module=layer
    )
    layer.weight = parameter.to(weight.device)
    # On processors that have bfloat16 the first product would make other bytes of the weight, more
    # than planned, and fail where rows are no multiple of 32
    layer.support_avx512bf16_for_cpu = False
    return _with_bias(layer, bias)


def _int8(
    bnb: Any, weight: torch.Tensor, bias: torch.Tensor | None, rows: int, columns: int
) -> nn.Module:
    layer: Any = bnb.nn.Linear8bitLt(
        columns,
        rows,
        bias=False,
        has_fp16_weights=False,
        threshold=_OUTLIER_THRESHOLD,
        device="meta",
    )
    codes, scale, _ = bnb.functional.int8_vectorwise_quant(weight.half())
    layer.weight = bnb.nn.Int8Params(
        codes, requires_grad=False, has_fp16_weights=False, CB=codes, SCB=scale
    )
    return _with_bias(layer, bias)


def _with_bias(layer: Any, bias: torch.Tensor | None) -> nn.Module:
    layer.bias = None if bias is None else nn.Parameter(bias, False)
    module: nn.Module = layer
    return module
