"""Gemma 4's decoder layers on a CPU in a third of the torch calls, for steps that are small.

A step of one token computes little, so what a call costs is most of its time: queries, keys and
values are normed and turned as one tensor, and a norm is a length and a division. Formulas follow
`models/gemma4/modeling_gemma4.py` of transformers 5.17 to 5.23; sums are in float32, as there, and
bfloat16 is rounded in fewer places.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.gemma4 import modeling_gemma4

__all__ = ["shorten_layers"]


def shorten_layers(model: nn.Module) -> int:
    """Let a Gemma 4's text layers and its norms take few calls where there are no gradients.

    The model's norms must have their weights, which may not change afterwards. Repeated calls
    change nothing.

    Returns:
        How many layers are shortened. Those under hooks of accelerate are left alone.
    """
    layers: list[Any] = [
        layer
        for layer in model.modules()
        if isinstance(layer, modeling_gemma4.Gemma4TextDecoderLayer)
        and not any(hasattr(module, "_hf_hook") for module in layer.modules())
    ]
    decoders = [m for m in model.modules() if isinstance(m, modeling_gemma4.Gemma4TextModel)]
    norms: dict[nn.Module, Norm] = {
        norm: Norm(norm)
        for owner in (*decoders, *layers)
        for norm in owner.children()
        if isinstance(norm, modeling_gemma4.Gemma4RMSNorm)
    }
    for norm, short in norms.items():
        _replace(norm, short.forward)
    for layer in layers:
        _replace(layer.self_attn, Attention(layer.self_attn).forward)
        if not layer.enable_moe_block:
            _replace(layer, Layer(layer, norms).forward)
    return len(layers)


def _replace(module: Any, short: Callable[..., Any]) -> None:
    if "forward" not in vars(module):
        module.forward = partial(_either, short, module.forward)


def _either(short: Callable[..., Any], plain: Callable[..., Any], *args: Any, **given: Any) -> Any:
    return (plain if torch.is_grad_enabled() else short)(*args, **given)


class Norm:
    """x / rms(x) * w of rows [..., D], as w sqrt(D) x over the length of (x, sqrt(D eps)).

    Args:
        module: the model's norm.
    """

    def __init__(self, module: Any) -> None:
        self._module = module

    @cached_property
    def _constants(self) -> tuple[torch.Tensor, torch.Tensor]:
        weight = self._module.weight.float()
        return weight * weight.shape[-1] ** 0.5, _least(weight.shape[-1], self._module.eps)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """The normed rows in their dtype."""
        product, length = self.parts(rows)
        return _as(product.div_(length), rows.dtype)

    def parts(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Numerator [..., D] and denominator [..., 1] of the normed rows, float32."""
        weight, least = self._constants
        wide = _as(rows, torch.float32)
        return wide * weight, _length(wide, least)

    def add_to(self, residual: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """residual + norm(rows), in their dtype."""
        product, length = self.parts(rows)
        if residual.dtype == torch.float32:
            return torch.addcdiv(residual, product, length)
        return residual + _as(product.div_(length), residual.dtype)


class Attention:
    """`Gemma4TextAttention.forward` with queries, keys and values in one tensor."""

    def __init__(self, module: Any) -> None:
        self._module = module

    @cached_property
    def _constants(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights of all heads that are normed, [heads, D], and the least length."""
        module, dim = self._module, self._module.head_dim
        weights = [module.q_norm.weight.expand(module.q_proj.out_features // dim, -1)]
        if not module.is_kv_shared_layer:
            heads = module.k_proj.out_features // dim
            weights.append(module.k_norm.weight.expand(heads, -1))
            if module.v_proj is not None:
                weights.append(torch.ones_like(weights[-1]))
        return torch.cat(weights).float() * dim**0.5, _least(dim, module.q_norm.eps)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: Any,
        shared_kv_states: Any,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, Any]:
        """As the module's own."""
        module = self._module
        query, *own = self._heads(hidden_states, *position_embeddings)
        if module.is_kv_shared_layer:
            keys, values = shared_kv_states[module.layer_type]
        else:
            keys, values = own
            if past_key_values is not None:
                keys, values = past_key_values.update(keys, values, module.layer_idx)
        # Layers that share K and V take them from here; what is handed on may be a cache's handles.
        if module.store_full_length_kv:
            shared_kv_states[module.layer_type] = keys, values
        interface = ALL_ATTENTION_FUNCTIONS.get_interface(
            module.config._attn_implementation, modeling_gemma4.eager_attention_forward
        )
        output, weights = interface(
            module,
            query,
            keys,
            values,
            attention_mask,
            dropout=0.0,
            scaling=module.scaling,
            sliding_window=module.sliding_window,
            **kwargs,
        )
        return module.o_proj(output.reshape(*hidden_states.shape[:-1], -1)), weights

    def _heads(
        self, states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> list[torch.Tensor]:
        """Queries, and where the layer has its own, keys and values, [B, heads, T, D] each."""
        module, (weights, least) = self._module, self._constants
        dim, queries = module.head_dim, module.q_proj.out_features // module.head_dim
        if module.is_kv_shared_layer:
            rows, turned = module.q_proj(states), queries
        else:
            names = ("q_proj", "k_proj", "v_proj")
            linears = [m for name in names if (m := getattr(module, name)) is not None]
            rows = torch.cat([linear(states) for linear in linears], dim=-1)
            turned = queries + module.k_proj.out_features // dim
        wide = _as(rows.view(*rows.shape[:-1], -1, dim), torch.float32)
        length = _length(wide, least)
        normed = _as((wide * weights).div_(length), rows.dtype)
        heads = _turned(normed.narrow(2, 0, turned), cos.unsqueeze(2), sin.unsqueeze(2))
        if module.is_kv_shared_layer:
            return [heads.transpose(1, 2)]
        if module.v_proj is None:  # K and V are one projection under different norms
            value = wide.narrow(2, queries, turned - queries) * dim**0.5
            value = _as(value.div_(length.narrow(2, queries, turned - queries)), rows.dtype)
        else:
            value = normed.narrow(2, turned, normed.shape[2] - turned)
        streams = *heads.split((queries, turned - queries), dim=2), value
        return [stream.transpose(1, 2) for stream in streams]


class Layer:
    """`Gemma4TextDecoderLayer.forward` with its sums taken into its norms.

    Args:
        module: the model's layer, without a mixture of experts.
        norms: of its norm modules.
    """

    def __init__(self, module: Any, norms: Mapping[nn.Module, Norm]) -> None:
        self._module = module
        self._after_attention = norms[module.post_attention_layernorm]
        self._after_mlp = norms[module.post_feedforward_layernorm]
        self._after_inputs: Norm | None = None
        if module.hidden_size_per_layer_input:
            self._after_inputs = norms[module.post_per_layer_input_norm]

    def forward(
        self,
        hidden_states: torch.Tensor,
        per_layer_input: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """As the module's own."""
        layer = self._module
        attended, _ = layer.self_attn(hidden_states=layer.input_layernorm(hidden_states), **kwargs)
        states = self._after_attention.add_to(hidden_states, attended)
        fed = layer.mlp(layer.pre_feedforward_layernorm(states))
        states = self._after_mlp.add_to(states, fed)
        if self._after_inputs is not None:
            gated = layer.act_fn(layer.per_layer_input_gate(states)) * per_layer_input
            states = self._after_inputs.add_to(states, layer.per_layer_projection(gated))
        return states.mul_(layer.layer_scalar)


def _turned(rows: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """The rotary embedding of rows [B, T, heads, D]; both halves of cos and of sin are equal."""
    half = rows.shape[-1] // 2
    out, sin = rows * cos, sin.narrow(-1, 0, half)
    (first, second), (one, two) = rows.chunk(2, -1), out.chunk(2, -1)
    one.addcmul_(second, sin, value=-1)
    two.addcmul_(first, sin)
    return out


def _as(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    # A conversion that changes nothing is a call, too
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def _length(wide: torch.Tensor, least: torch.Tensor) -> torch.Tensor:
    length: torch.Tensor = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    return length.hypot_(least)


def _least(values: int, eps: float) -> torch.Tensor:
    return torch.tensor((values * eps) ** 0.5)
