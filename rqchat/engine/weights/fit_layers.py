"""Fits the decoder's layers one after the other, to what a sample of text brings to each.

A layer is there with its own weights while the sample runs through it once; then its weights are
replaced by fitted ones, and what these make of the sample goes on to the next layer (as in GPTQ, E.
Frantar et al., 2022). So no more than one layer is ever on the device in full.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

__all__ = ["fit_layers", "sample_ids"]

_SAMPLE = Path(__file__).with_name("sample_text.txt")
_ROWS, _ROW_TOKENS = 4, 512  # 16 times as many as a group has columns


def sample_ids(tokenizer: Any) -> torch.Tensor:
    """Ids [rows, tokens] of the sample: prose, dialogue, tables, code, and several languages."""
    ids = tokenizer(_SAMPLE.read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"]
    first = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    row = min(_ROW_TOKENS, len(ids)) - len(first)
    starts = range(0, min(len(ids), _ROWS * row) - row + 1, row)
    return torch.tensor([first + ids[start : start + row] for start in starts])


@torch.no_grad()
def fit_layers(
    text: Any,
    ids: torch.Tensor,
    begin: Callable[[int], Mapping[str, nn.Module]],
    finish: Callable[[int, Callable[[str, int], torch.Tensor]], None],
) -> None:
    """Runs `ids` through a text model whose decoder layers have no weights yet.

    Args:
        text: transformers' text model, everything but those layers' linears in place.
        ids: [rows, tokens], on its device.
        begin: gives layer `index` its own weights; returns the modules to listen to, by name. One
            without weights that are there, such as a mixture's experts, is skipped.
        finish: replaces them; its second argument gives the second moments [groups, group, group]
            float32 of what came to a module, by its name and the columns of a group.
    """

    def fit(index: int, layer: nn.Module, args: Any, kwargs: Any) -> None:
        modules = begin(index)
        with _listening(modules) as heard:
            layer.forward(*args, **kwargs)
        finish(index, lambda name, group: _moments(heard[name], group))

    hooks = [
        layer.register_forward_pre_hook(partial(fit, index), with_kwargs=True)
        for index, layer in enumerate(text.layers)
    ]
    try:
        text(input_ids=ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _listening(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, torch.Tensor]]:
    """Collects what comes to each module, [tokens, columns], by name."""
    heard: dict[str, torch.Tensor] = {}
    hooks = []
    for name, module in modules.items():

        def listen(module: nn.Module, args: Any, name: str = name) -> None:
            heard[name] = args[0].reshape(-1, args[0].shape[-1])

        hooks.append(module.register_forward_pre_hook(listen))
        if any(parameter.is_meta for parameter in module.parameters()):
            module.forward = _nothing
    try:
        yield heard
    finally:
        for hook, module in zip(hooks, modules.values(), strict=True):
            hook.remove()
            module.__dict__.pop("forward", None)


def _nothing(x: torch.Tensor, *rest: Any) -> torch.Tensor:
    return torch.zeros_like(x)


def _moments(inputs: torch.Tensor, group: int) -> torch.Tensor:
    groups = inputs.unflatten(-1, (-1, group)).transpose(0, 1).float()
    return groups.mT @ groups
