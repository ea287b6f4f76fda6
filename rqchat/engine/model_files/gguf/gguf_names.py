"""What llama.cpp calls the tensors of a Gemma 4, and what transformers does. No torch.

The names are those that llama.cpp's converter writes (github.com/ggml-org/llama.cpp,
conversion/gemma.py and gguf-py/gguf/constants.py). A file that lacks a tensor is found out by its
header alone, so before most of it was downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from rqchat.errors import ModelError

__all__ = ["PATCHES", "UNIFIED_NORM", "check_names", "model_name"]

_TEXT, _LAYER = "model.language_model.", "model.language_model.layers."
_TOP = {
    "token_embd.weight": _TEXT + "embed_tokens.weight",
    "per_layer_token_embd.weight": _TEXT + "embed_tokens_per_layer.weight",
    "per_layer_model_proj.weight": _TEXT + "per_layer_model_projection.weight",
    "per_layer_proj_norm.weight": _TEXT + "per_layer_projection_norm.weight",
    "output_norm.weight": _TEXT + "norm.weight",
    "output.weight": "lm_head.weight",
    "mm.input_projection.weight": "model.embed_vision.embedding_projection.weight",
    "v.patch_embd.weight": "model.vision_tower.patch_embedder.input_proj.weight",
    "v.position_embd.weight": "model.vision_tower.patch_embedder.position_embedding_table",
    "v.std_bias": "model.vision_tower.std_bias",
    "v.std_scale": "model.vision_tower.std_scale",
}
_UNIFIED, _EMBEDDER = "v.patch_norm.", "model.embed_vision."
UNIFIED_NORM = "v.patch_norm.1.weight"
"""A tensor that the image part of the 12B alone has."""
_UNIFIED_TOP = {
    "mm.input_projection.weight": _EMBEDDER + "multimodal_embedder.embedding_projection.weight",
    "v.patch_embd.weight": _EMBEDDER + "patch_dense.weight",
    "v.patch_embd.bias": _EMBEDDER + "patch_dense.bias",
    "v.position_embd.weight": _EMBEDDER + "pos_embedding",
    **{
        f"{_UNIFIED}{number}.{leaf}": f"{_EMBEDDER}{norm}.{leaf}"
        for number, norm in enumerate(("patch_ln1", "patch_ln2", "pos_norm"), 1)
        for leaf in ("weight", "bias")
    },
}
"""The image part of the 12B, which is no tower."""
PATCHES = {
    "weight": (_TOP["v.patch_embd.weight"], _UNIFIED_TOP["v.patch_embd.weight"]),
    "pixels": tuple(_EMBEDDER + f"patch_ln1.{leaf}" for leaf in ("weight", "bias")),
    "positions": (_UNIFIED_TOP["v.position_embd.weight"],),
}
"""Tensors that the converter stores in another order, by transformers' names."""
_IN_LAYER = {
    "attn_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm", "post_ffw_norm": "post_feedforward_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_qkv": "self_attn.qkv_proj",
    "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    "ffn_gate_up": "mlp.gate_up_proj",
    "inp_gate": "per_layer_input_gate", "proj": "per_layer_projection",
    "post_norm": "post_per_layer_input_norm",
    "pre_ffw_norm_2": "pre_feedforward_layernorm_2",
    "post_ffw_norm_1": "post_feedforward_layernorm_1",
    "post_ffw_norm_2": "post_feedforward_layernorm_2",
    "ffn_gate_inp": "router.proj",
}  # fmt: skip
_WHOLE_IN_LAYER = {
    "layer_output_scale.weight": "layer_scalar",
    "ffn_gate_inp.scale": "router.scale", "ffn_down_exps.scale": "router.per_expert_scale",
    "ffn_gate_up_exps.weight": "experts.gate_up_proj", "ffn_down_exps.weight": "experts.down_proj",
    "ffn_gate_exps.weight": "experts.gate_proj", "ffn_up_exps.weight": "experts.up_proj",
}  # fmt: skip
_IN_TOWER = {
    "ln1": "input_layernorm", "attn_post_norm": "post_attention_layernorm",
    "ln2": "pre_feedforward_layernorm", "ffn_post_norm": "post_feedforward_layernorm",
    "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
}  # fmt: skip
_CLIPPED = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip


def model_name(key: str, *, unified: bool = False) -> str:
    """What transformers calls the tensor; its own name where it has none there.

    Args:
        key: its name in the file.
        unified: whether the file is of the 12B (`gemma4_unified`).
    """
    top = _UNIFIED_TOP if unified and key in _UNIFIED_TOP else _TOP
    if key in top:
        return top[key]
    found = re.fullmatch(r"(v\.)?blk\.(\d+)\.(.+)", key)
    if not found:
        return key
    tower, layer, rest = found.groups()
    part, _, leaf = rest.rpartition(".")
    if tower:
        base = f"model.vision_tower.encoder.layers.{layer}."
        if part in _CLIPPED:
            return f"{base}{_CLIPPED[part]}.{'linear.' if leaf == 'weight' else ''}{leaf}"
        return f"{base}{_IN_TOWER.get(part, part)}.{leaf}"
    if rest in _WHOLE_IN_LAYER:
        return f"{_LAYER}{layer}.{_WHOLE_IN_LAYER[rest]}"
    # Mixtures of 2023 have a matrix for each expert: ffn_gate.7.weight
    expert = re.fullmatch(r"ffn_(gate|up|down)\.(\d+)", part)
    if expert:
        return f"{_LAYER}{layer}.experts.{expert[2]}.{expert[1]}_proj.{leaf}"
    return f"{_LAYER}{layer}.{_IN_LAYER.get(part, part)}.{leaf}"


def check_names(keys: Collection[str], config: Mapping[str, Any], file: str, name: str) -> None:
    """Checks that a file has what the model needs, as far as names tell.

    Args:
        keys: the tensors' names in the files of the text model, and of the image part where
            there is one.
        config: the model's config.json.
        file: what errors call the file.
        name: what errors call the model.

    Raises:
        ModelError: a tensor is missing.
    """
    has_image_part = any(key.startswith("v.") for key in keys)
    if config.get("vision_config") and not has_image_part:
        raise ModelError(
            f"{name} has no image tower: download the mmproj file of the same model, too, into the"
            f" folder of {file}"
        )
    missing = [
        choices[0]
        for choices in _needed(config["text_config"])
        if not any(choice in keys for choice in choices)
    ]
    if missing:
        raise ModelError(
            f"{name} cannot be used: {file} lacks {len(missing)} tensors of the model, such as"
            f" {missing[0]}; take another file of the same model"
        )


def _needed(text: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The tensors of the text model that are needed; of those in a tuple one is."""
    layers = int(text["num_hidden_layers"])
    own = layers - int(text.get("num_kv_shared_layers") or 0)
    for key in ("token_embd", "output_norm"):
        yield (f"{key}.weight",)
    for layer in range(layers):
        for part in _parts(text, owns_kv=layer < own):
            yield tuple(f"blk.{layer}.{choice}" for choice in part)


def _parts(text: Mapping[str, Any], *, owns_kv: bool) -> Iterator[tuple[str, ...]]:
    norms = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm", "attn_q_norm")
    for norm in norms:
        yield (f"{norm}.weight",)
    yield "attn_q.weight", "attn_qkv.weight"
    yield ("attn_output.weight",)
    yield ("ffn_down.weight",)
    for half in ("gate", "up"):
        yield f"ffn_{half}.weight", "ffn_gate_up.weight"
    if owns_kv:
        yield "attn_k.weight", "attn_qkv.weight"
        yield ("attn_k_norm.weight",)
    if text.get("hidden_size_per_layer_input"):
        for part in ("inp_gate", "proj", "post_norm"):
            yield (f"{part}.weight",)
    if text.get("enable_moe_block"):
        yield ("ffn_gate_inp.weight",)
        yield "ffn_down_exps.weight", "ffn_down.0.weight"
        yield "ffn_gate_up_exps.weight", "ffn_gate_exps.weight", "ffn_gate.0.weight"
