"""Gemma 4's decoder layers with their small steps fused: fewer launches, the same numbers.

A layer has some seventy launches beside its linears and its attention. Five remain, of `ops`:
norms with the sums and the factor around them, head norms with rotary embeddings, the MLP's gate.
The forward passes here follow `models/gemma4/modeling_gemma4.py` of transformers 5.17 to 5.23.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.gemma4 import modeling_gemma4

from rotorquant.ops import dispatch
from rotorquant.ops.gate import gelu_gate
from rotorquant.ops.heads import Stream, norm_heads
from rotorquant.ops.norm import Norm, norm, norm_add

__all__ = ["fuse_layers"]

_ACTIVATION = "gelu_pytorch_tanh"


def fuse_layers(model: nn.Module) -> int:
    """Let the text layers of a Gemma 4 take fused steps where they run on a GPU without gradients.

    Elsewhere they run as they did. Repeated calls change nothing.

    Returns:
        How many layers are fused. Those of a mixture of experts, with another activation, or
        under hooks of accelerate, as offloaded ones have them, are left alone.
    """
    layers: list[Any] = [
        layer
        for layer in model.modules()
        if isinstance(layer, modeling_gemma4.Gemma4TextDecoderLayer) and _is_plain(layer)
    ]
    for layer in layers:
        for module, fused in ((layer, _layer), (layer.self_attn, _attention), (layer.mlp, _mlp)):
            if "forward" not in vars(module):  # else it is fused already, or someone has patched it
                module.forward = partial(_either, module, fused, module.forward)
    return len(layers)


def _is_plain(layer: Any) -> bool:
    # Hooks of accelerate move weights before a forward pass, which the fused one would not call.
    hooked = any(hasattr(module, "_hf_hook") for module in layer.modules())
    known = layer.config.hidden_activation == _ACTIVATION
    return known and not hooked and not layer.enable_moe_block


def _either(
    module: nn.Module,
    fused: Callable[..., Any],
    plain: Callable[..., Any],
    *args: Any,
    **kwargs: Any,
) -> Any:
    states = args[0] if args else kwargs["hidden_states"]
    # Asked at every call: a model may be moved, and fused kernels have no backward pass.
    serves = dispatch.on_gpu(states) and not torch.is_grad_enabled()
    return fused(module, *args, **kwargs) if serves else plain(*args, **kwargs)


def _layer(
    layer: Any,
    hidden_states: torch.Tensor,
    per_layer_input: torch.Tensor | None = None,
    **kwargs: Any,
) -> torch.Tensor:
    """`Gemma4TextDecoderLayer.forward` with its norms and sums fused."""
    normed = norm(hidden_states, _norm_of(layer.input_layernorm))
    attended, _ = layer.self_attn(hidden_states=normed, **kwargs)
    after, before = _norm_of(layer.post_attention_layernorm), layer.pre_feedforward_layernorm
    residual, normed_or_none = norm_add(attended, after, hidden_states, None, _norm_of(before))
    fed, after = layer.mlp(normed_or_none), _norm_of(layer.post_feedforward_layernorm)
    if not layer.hidden_size_per_layer_input:
        return norm_add(fed, after, residual, layer.layer_scalar)[0]
    residual, _ = norm_add(fed, after, residual)
    assert per_layer_input is not None
    gated = gelu_gate(layer.per_layer_input_gate(residual), per_layer_input)
    after = _norm_of(layer.post_per_layer_input_norm)
    return norm_add(layer.per_layer_projection(gated), after, residual, layer.layer_scalar)[0]


def _mlp(mlp: Any, states: torch.Tensor) -> torch.Tensor:
    """`Gemma4TextMLP.forward` with its gate fused."""
    output: torch.Tensor = mlp.down_proj(gelu_gate(mlp.gate_proj(states), mlp.up_proj(states)))
    return output


def _attention(
    attention: Any,
    hidden_states: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    attention_mask: Any,
    shared_kv_states: Any,
    past_key_values: Any = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, Any]:
    """`Gemma4TextAttention.forward` with head norms and rotary embedding fused."""
    streams = _streams(attention, hidden_states)
    normed = norm_heads(streams, *position_embeddings, attention.q_norm.eps)
    query, *own = (heads.transpose(1, 2) for heads in normed)
    if attention.is_kv_shared_layer:
        keys, values = shared_kv_states[attention.layer_type]
    else:
        keys, values = own
        if past_key_values is not None:
            keys, values = past_key_values.update(keys, values, attention.layer_idx)
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


def _streams(attention: Any, states: torch.Tensor) -> list[Stream]:
    """Queries, and where the layer has its own, keys and values."""
    shape = (*states.shape[:-1], -1, attention.head_dim)
    query = attention.q_proj(states).view(shape)
    streams = [Stream(query, attention.q_norm.weight, True)]
    if attention.is_kv_shared_layer:
        return streams
    key = attention.k_proj(states).view(shape)
    # Without a `v_proj` (`attention_k_eq_v`) K and V are one projection under different norms.
    value = key if attention.v_proj is None else attention.v_proj(states).view(shape)
    return [*streams, Stream(key, attention.k_norm.weight, True), Stream(value, None, False)]


def _norm_of(module: Any) -> Norm:
    return Norm(module.weight, module.eps)
