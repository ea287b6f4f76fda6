"""What a cache needs to know of a model: one record per decoder layer, read once.

A model that cannot be served is refused here, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from rotorquant.attend.tied_key import TiedKey
from rotorquant.exceptions import UnsupportedModelError
from rotorquant.ops.planes import HEAD_DIM_STEP

__all__ = ["LayerKind", "LayerShape", "ModelLayers", "read_model_layers"]

LayerKind = Literal["tied", "split", "sliding", "shared"]
STATIC_ROPE = ("default", "linear", "proportional")


@dataclass(frozen=True, slots=True, eq=False)
class LayerShape:
    """One decoder layer.

    Attributes:
        kind: how its keys and values are stored.
        head_dim: values per head.
        kv_heads: heads of K and V; 0 for `shared`.
        device: where its projections are.
        window: set for `sliding`.
        tie: set for `tied`.
    """

    kind: LayerKind
    head_dim: int
    kv_heads: int
    device: torch.device
    window: int | None = None
    tie: TiedKey | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ModelLayers:
    """What the cache needs to know of a model.

    Attributes:
        config: the text configuration that names the attention implementation.
        layers: one record per decoder layer.
        rotary: the module that is called with the position ids of every forward pass.
        image_host: the module that receives `mm_token_type_ids` where image tokens see each
            other, else None.
    """

    config: Any
    layers: tuple[LayerShape, ...]
    rotary: nn.Module | None
    image_host: nn.Module | None


def read_model_layers(model: Any) -> ModelLayers:
    """Read a transformers model.

    Raises:
        UnsupportedModelError: this library cannot serve its attention; the sentence says why.
    """
    if not isinstance(model, nn.Module) or not hasattr(model, "get_decoder"):
        raise UnsupportedModelError(f"{_name(model)} is no transformers model with a decoder")
    known: Any = model  # transformers' models have no common type with these methods
    config, decoder = known.config.get_text_config(decoder=True), known.get_decoder()
    for reason in _objections(model, config, decoder):
        raise UnsupportedModelError(f"{_name(model)} cannot be served: {reason}")
    rotary = getattr(decoder, "rotary_emb", None)
    layers = [
        _read_layer(layer.self_attn, config, rotary, _layer_type(config, index))
        for index, layer in enumerate(decoder.layers)
    ]
    for index, shape in enumerate(layers):
        if shape.head_dim % HEAD_DIM_STEP:
            raise UnsupportedModelError(
                f"{_name(model)} cannot be served: layer {index} has heads of {shape.head_dim} "
                f"values; packed are multiples of {HEAD_DIM_STEP}"
            )
    sees_images = getattr(config, "use_bidirectional_attention", None) == "vision"
    base = known.base_model
    host = base if sees_images and hasattr(base, "language_model") else None
    return ModelLayers(config, tuple(layers), rotary, host)


def _objections(model: Any, config: Any, decoder: Any) -> Iterator[str]:
    """Reasons why the model cannot be served."""
    if getattr(model.config, "is_encoder_decoder", False):
        yield "it has an encoder and a decoder"
    if not getattr(model, "_supports_attention_backend", False):
        yield "its attention does not go through transformers' attention interface"
    if getattr(model.config, "vision_config", None) is not None and "gemma4" not in str(
        getattr(model.config, "model_type", "")
    ):
        yield "of the models with pictures, only Gemma 4's image rule is known"
    if getattr(config, "use_bidirectional_attention", None) == "all":
        yield "all its tokens see each other, so there is nothing to cache"
    if getattr(config, "attn_logit_softcapping", None) is not None:
        yield "its attention scores are soft-capped"
    yield from _layer_objections(config, getattr(decoder, "layers", None))


def _layer_objections(config: Any, layers: Any) -> Iterator[str]:
    if not layers or not all(hasattr(layer, "self_attn") for layer in layers):
        yield "its decoder is not a list of layers with `self_attn`"
        return
    if any(hasattr(layer.self_attn, "sinks") for layer in layers):
        yield "its attention has learned sinks"
    if not all(_is_plain(layer.self_attn) for layer in layers):
        yield "its attention has no separate key projection per head"
    for index in range(len(layers)):
        if _layer_type(config, index) not in ("full_attention", "sliding_attention"):
            yield f"layer {index} is of type {_layer_type(config, index)!r}"


def _is_plain(attention: Any) -> bool:
    shared = getattr(attention, "is_kv_shared_layer", False)
    return hasattr(attention, "head_dim") and (shared or hasattr(attention, "k_proj"))


def _layer_type(config: Any, index: int) -> str:
    # Configurations without `layer_types` have one kind of layer, with or without a window.
    types = getattr(config, "layer_types", None)
    if types is not None:
        return str(types[index])
    sliding = getattr(config, "sliding_window", None) is not None
    return "sliding_attention" if sliding else "full_attention"


def _read_layer(attention: Any, config: Any, rotary: Any, layer_type: str) -> LayerShape:
    head_dim, device = int(attention.head_dim), next(attention.parameters()).device
    if getattr(attention, "is_kv_shared_layer", False):
        return LayerShape("shared", head_dim, 0, device)
    # From the projection: configurations count the heads of each kind of layer their own way.
    heads = int(attention.k_proj.out_features) // head_dim
    if layer_type == "sliding_attention":
        return LayerShape("sliding", head_dim, heads, device, window=int(config.sliding_window))
    tie = _read_tie(attention, rotary, layer_type)
    return LayerShape("split" if tie is None else "tied", head_dim, heads, device, tie=tie)


def _read_tie(attention: Any, rotary: Any, layer_type: str) -> TiedKey | None:
    """The tie of a layer whose K is known to be RoPE(w V), with fixed frequencies."""
    # With `attention_k_eq_v` Gemma 4 makes no `v_proj`: V is `k_proj`'s result, normed without w.
    if not getattr(attention, "use_alternative_attention", False) or attention.v_proj is not None:
        return None
    buffer = f"{layer_type}_inv_freq"
    turns = getattr(rotary, buffer, None)
    rope_type = getattr(rotary, "rope_type", {})
    fixed = isinstance(rope_type, dict) and rope_type.get(layer_type) in STATIC_ROPE
    # K is rebuilt from plain cosines and sines: a factor on them would have to be known here.
    plain = getattr(rotary, f"{layer_type}_attention_scaling", None) == 1.0
    if not (isinstance(turns, torch.Tensor) and fixed and plain):
        return None
    # Gemma's proportional embedding leaves the last pairs unturned, with frequency 0.
    pairs = int((turns != 0).sum())
    if not bool((turns[:pairs] != 0).all()):
        return None
    return TiedKey(attention.k_norm, rotary, buffer, pairs)


def _name(model: object) -> str:
    return type(model).__name__
