"""Tensors of a checkpoint that no module takes: refused where they change others, else named."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from torch import nn

from rqchat.errors import ModelError

__all__ = ["unread_tensors"]

# Computed anew from the configuration
_COMPUTED = re.compile(r"rope_freqs\.weight|(.+\.)?rotary_emb\..+")
_SOUND = re.compile(r"model\.(audio_tower|embed_audio)\..+|(mm\.)?a\..+")  # second as GGUF has it
_BORROWED = re.compile(r".+\.language_model\.layers\.(\d+)\.self_attn\.[kv]_(proj|norm)\..+")


def unread_tensors(model: Any, names: Iterable[str], checkpoint: str) -> list[str]:
    """Those of `names` that a user should hear of.

    Not told: an output head that is tied to the embedding, frequencies that are computed, what is
    for sound, and keys and values of layers that borrow another's, which checkpoints of E2B and
    E4B hold.

    Args:
        model: transformers' model, before its layers are packed.
        names: of all tensors in the checkpoint.
        checkpoint: what errors call it.

    Raises:
        ModelError: one stands beside a weight that is read and changes what it means, as a zero
            point, an order of groups or an adapter does.
    """
    known, modules = model.state_dict().keys(), dict(model.named_modules())
    text = model.config.get_text_config()
    first_borrowing = text.num_hidden_layers - (getattr(text, "num_kv_shared_layers", 0) or 0)
    unread = []
    for name in names:
        borrowed = _BORROWED.fullmatch(name)
        borrows = borrowed is not None and int(borrowed[1]) >= first_borrowing
        expected = borrows or _COMPUTED.fullmatch(name) or _SOUND.fullmatch(name)
        if name not in known and not expected:
            unread.append(name)
    beside = [name for name in unread if _owner_is_whole(name, modules)]
    if beside:
        raise ModelError(
            f"{checkpoint} holds {beside[0]!r:.200}{_more(len(beside) - 1)} beside weights, which"
            " changes what those mean and which rqchat cannot read; take the model's bf16 original,"
            " which rqchat quantizes itself while loading"
        )
    return unread


def _owner_is_whole(name: str, modules: dict[str, nn.Module]) -> bool:
    """Whether the tensor lies in a single layer that has weights of its own, not in a block."""
    path = name
    while path and path not in modules:
        path = path.rpartition(".")[0]
    owner = modules[path]
    return next(owner.children(), None) is None and bool(owner._parameters)


def _more(count: int) -> str:
    return f" and {count} more tensors" if count else ""
