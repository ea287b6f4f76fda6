"""Gemma 4's decoder layers with their small steps fused: fewer launches, the same numbers.

A layer has some seventy launches beside its linears and its attention. Three or four remain, of
`ops`: norms with the sums and the factor around them, head norms with rotary embeddings, the MLP's
gate. The forward passes follow `models/gemma4/modeling_gemma4.py` of transformers 5.17 to 5.23.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.gemma4 import modeling_gemma4

from rotorquant.layers.decode_step import RingStep, StoreStep
from rotorquant.model_layers import STATIC_ROPE
from rotorquant.ops import dispatch
from rotorquant.ops.decode import STEPS_LIMIT
from rotorquant.ops.gate import gelu_gate
from rotorquant.ops.heads import Stream, norm_heads
from rotorquant.ops.norm import Norm, norm, norm_add

__all__ = ["PlainProducts", "fuse_layers"]

_ACTIVATION = "gelu_pytorch_tanh"


class PlainProducts:
    """How fused layers multiply: each linear layer by itself. Subclasses know faster ways."""

    def fields(self, rows: int, linears: Sequence[nn.Module]) -> int:
        """The order in which these layers read their common input of so many rows (`Norm`)."""
        return 1

    def joined(self, states: torch.Tensor, linears: Sequence[nn.Module]) -> Sequence[torch.Tensor]:
        """What each layer makes of states [..., D], which lie in the order of `fields`."""
        return [linear(states) for linear in linears]

    def gated(
        self, states: torch.Tensor, gate: nn.Module, up: nn.Module, then: nn.Module
    ) -> torch.Tensor:
        """gelu(gate) * up of states as in `joined`, in the order in which `then` reads it."""
        return gelu_gate(gate(states), up(states))


@dataclass(slots=True, eq=False)
class _Handed:
    """What a layer's last kernel has normed for the next one already."""

    states: torch.Tensor | None = None
    normed: torch.Tensor | None = None

    def take(self, states: torch.Tensor) -> torch.Tensor | None:
        """The norm of these very states, if it is there; nothing is kept."""
        found = self.normed if self.states is states else None
        self.states = self.normed = None
        return found


@dataclass(frozen=True, slots=True, eq=False)
class _Link:
    """What a layer knows of its neighbours.

    Attributes:
        products: how linear layers multiply.
        handed: shared by all layers of a model.
        then: the norm behind the layer, or None where another code runs it.
        readers: the linear layers that read that norm alone, or none.
    """

    products: PlainProducts
    handed: _Handed
    then: nn.Module | None = None
    readers: Sequence[nn.Module] = field(default=())


def fuse_layers(model: nn.Module, products: PlainProducts | None = None) -> int:
    """Let the text layers of a Gemma 4 take fused steps where they run on a GPU without gradients.

    Elsewhere they run as they did. Repeated calls change nothing.

    Args:
        model: as transformers loads it.
        products: how its linear layers multiply in these steps; by default each by itself.

    Returns:
        How many layers are fused. Those of a mixture of experts, with another activation, or
        under hooks of accelerate, as offloaded ones have them, are left alone.
    """
    count, products = 0, products or PlainProducts()
    for decoder in model.modules():
        if isinstance(decoder, modeling_gemma4.Gemma4TextModel):
            count += _fuse_decoder(decoder, products)
    return count


def _fuse_decoder(decoder: Any, products: PlainProducts) -> int:
    handed, layers = _Handed(), [*decoder.layers]
    plain = [layer for layer in layers if _is_plain(layer)]
    for layer, following in zip(layers, [*layers[1:], None], strict=True):
        link = _Link(products, handed)
        if following is None and not hasattr(decoder.norm, "_hf_hook"):
            link = _Link(products, handed, decoder.norm)
        elif following is not None and _is_plain(following):
            attention = following.self_attn
            link = _Link(products, handed, following.input_layernorm, _projections(attention))
        if _is_plain(layer):
            _patch(layer, _either, partial(_layer, link))
            _patch(layer.self_attn, _either, partial(_attention, products))
            _patch(layer.mlp, _either, partial(_mlp, products))
    if plain:
        _patch(decoder.norm, _last_norm, handed)
        if _is_static(decoder.rotary_emb):
            _patch(decoder.rotary_emb, _rotary, {})
    return len(plain)


def _patch(module: Any, forward: Callable[..., Any], by: Any) -> None:
    if "forward" not in vars(module):  # else it is fused already, or someone has patched it
        module.forward = partial(forward, module, by, module.forward)


def _is_plain(layer: Any) -> bool:
    # Hooks of accelerate move weights before a forward pass, which the fused one would not call.
    hooked = any(hasattr(module, "_hf_hook") for module in layer.modules())
    known = layer.config.hidden_activation == _ACTIVATION
    return known and not hooked and not layer.enable_moe_block


def _is_static(rotary: Any) -> bool:
    """Whether its tables never change and are plain cosines and sines."""
    kinds: dict[str, str] = rotary.rope_type
    scaled = any(getattr(rotary, f"{name}_attention_scaling") != 1.0 for name in kinds)
    return not scaled and all(kind in STATIC_ROPE for kind in kinds.values())


def _serves(states: torch.Tensor) -> bool:
    # Asked at every call: a model may be moved, and fused kernels have no backward pass.
    return dispatch.on_gpu(states) and not torch.is_grad_enabled()


def _either(
    module: nn.Module,
    fused: Callable[..., Any],
    plain: Callable[..., Any],
    *args: Any,
    **kwargs: Any,
) -> Any:
    states = args[0] if args else kwargs["hidden_states"]
    return fused(module, *args, **kwargs) if _serves(states) else plain(*args, **kwargs)


def _last_norm(
    module: nn.Module, handed: _Handed, plain: Callable[..., Any], hidden_states: torch.Tensor
) -> torch.Tensor:
    """`Gemma4TextModel.norm`, which the last layer has computed where it is fused."""
    normed = handed.take(hidden_states)
    found: torch.Tensor = plain(hidden_states) if normed is None else normed
    return found


def _rotary(
    rotary: Any,
    tables: dict[str, tuple[weakref.ref[torch.Tensor], torch.Tensor]],
    plain: Callable[..., Any],
    x: torch.Tensor,
    position_ids: torch.Tensor,
    layer_type: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`Gemma4TextRotaryEmbedding.forward` with both halves of its frequencies laid out once."""
    if not _serves(x):
        found: tuple[torch.Tensor, torch.Tensor] = plain(x, position_ids, layer_type)
        return found
    turns = getattr(rotary, f"{layer_type}_inv_freq")
    known = tables.get(layer_type)
    if known is None or known[0]() is not turns:
        with torch.inference_mode(False):
            both = torch.cat((turns, turns)).to(device=x.device, dtype=torch.float32)
        known = tables[layer_type] = weakref.ref(turns), both
    # Integers times float32 are float32, as they are where the model converts them first.
    angles = position_ids[..., None] * known[1]
    return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


def _layer(
    link: _Link,
    layer: Any,
    hidden_states: torch.Tensor,
    per_layer_input: torch.Tensor | None = None,
    **kwargs: Any,
) -> torch.Tensor:
    """`Gemma4TextDecoderLayer.forward` with its norms and sums fused."""
    products, rows = link.products, hidden_states.numel() // hidden_states.shape[-1]
    normed = link.handed.take(hidden_states)
    if normed is None:
        readers = _projections(layer.self_attn)
        normed = norm(
            hidden_states, _norm_of(layer.input_layernorm, products.fields(rows, readers))
        )
    attended, _ = layer.self_attn(hidden_states=normed, **kwargs)
    readers = [layer.mlp.gate_proj, layer.mlp.up_proj]
    before = _norm_of(layer.pre_feedforward_layernorm, products.fields(rows, readers))
    after = _norm_of(layer.post_attention_layernorm)
    residual, normed_or_none = norm_add(attended, after, hidden_states, None, before)
    last, after = layer.mlp(normed_or_none), _norm_of(layer.post_feedforward_layernorm)
    if layer.hidden_size_per_layer_input:
        residual, _ = norm_add(last, after, residual)
        assert per_layer_input is not None
        gated = gelu_gate(layer.per_layer_input_gate(residual), per_layer_input)
        after = _norm_of(layer.post_per_layer_input_norm)
        last = layer.per_layer_projection(gated)
    order = products.fields(rows, link.readers) if link.readers else 1
    then = None if link.then is None else _norm_of(link.then, order)
    total, normed = norm_add(last, after, residual, layer.layer_scalar, then)
    if normed is not None:
        link.handed.states, link.handed.normed = total, normed
    return total


def _mlp(products: PlainProducts, mlp: Any, states: torch.Tensor) -> torch.Tensor:
    """`Gemma4TextMLP.forward` with its gate fused."""
    gated = products.gated(states, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    (output,) = products.joined(gated, [mlp.down_proj])
    return output


def _attention(
    products: PlainProducts,
    attention: Any,
    hidden_states: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    attention_mask: Any,
    shared_kv_states: Any,
    past_key_values: Any = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, Any]:
    """`Gemma4TextAttention.forward` with head norms and rotary embedding fused."""
    # A step over a cache's rows reads float32; pictures and other attention do not.
    wide = hidden_states.shape[1] <= STEPS_LIMIT and kwargs.get("rotorquant_blocks") is None
    streams = _streams(products, attention, hidden_states, wide)
    normed = norm_heads(streams, *position_embeddings, attention.q_norm.eps)
    query, *own = (heads.transpose(1, 2) for heads in normed)
    if attention.is_kv_shared_layer:
        keys, values = shared_kv_states[attention.layer_type]
    else:
        keys, values = own
        if past_key_values is not None:
            keys, values = past_key_values.update(keys, values, attention.layer_idx)
    if not isinstance(getattr(keys, "view", None), (RingStep, StoreStep)):
        query = query.to(hidden_states.dtype)
    # Layers that share K and V take them from here; what is handed on may be a cache's handles.
    if attention.store_full_length_kv:
        shared_kv_states[attention.layer_type] = keys, values
    interface = ALL_ATTENTION_FUNCTIONS.get_interface(
        attention.config._attn_implementation, modeling_gemma4.eager_attention_forward
    )
    output, weights = interface(
        attention,
        query,
        keys,
        values,
        attention_mask,
        dropout=0.0,
        scaling=attention.scaling,
        sliding_window=attention.sliding_window,
        **kwargs,
    )
    joined = output.reshape(*hidden_states.shape[:-1], -1).contiguous()
    return attention.o_proj(joined), weights


def _projections(attention: Any) -> list[nn.Module]:
    """The linear layers that read what comes to an attention."""
    if attention.is_kv_shared_layer:
        return [attention.q_proj]
    # Without a `v_proj` (`attention_k_eq_v`) K and V are one projection under different norms.
    return [each for each in (attention.q_proj, attention.k_proj, attention.v_proj) if each]


def _streams(
    products: PlainProducts, attention: Any, states: torch.Tensor, wide: bool
) -> list[Stream]:
    """Queries, and where the layer has its own, keys and values."""
    shape = (*states.shape[:-1], -1, attention.head_dim)
    parts = products.joined(states, _projections(attention))
    query, *own = (part.view(shape) for part in parts)
    streams = [Stream(query, attention.q_norm.weight, True, wide)]
    if not own:
        return streams
    return [*streams, Stream(own[0], attention.k_norm.weight, True), Stream(own[-1], None, False)]


def _norm_of(module: Any, fields: int = 1) -> Norm:
    return Norm(module.weight, module.eps, fields)
