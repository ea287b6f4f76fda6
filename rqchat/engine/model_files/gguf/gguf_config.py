"""The config.json that a GGUF file stands for, out of its metadata and its tensors' shapes.

No torch. Keys: github.com/ggml-org/ggml, docs/gguf.md, and llama.cpp's converter for Gemma 4
(conversion/gemma.py there).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from rqchat.engine.foreign import border
from rqchat.engine.model_files.gguf.gguf_files import GgufFiles
from rqchat.engine.model_files.gguf.gguf_header import read_header
from rqchat.errors import ModelError

__all__ = ["TOKENS", "gguf_config", "gguf_generation", "soft_tokens"]

TOKENS = "tokenizer.ggml.tokens"
_FAMILY, _PIXELS = "gemma4", "clip.vision."
_MEDIA = {
    "boi_token_id": "<|image>", "image_token_id": "<|image|>", "eoi_token_id": "<image|>",
    "boa_token_id": "<|audio>", "audio_token_id": "<|audio|>", "eoa_token_index": "<audio|>",
    "video_token_id": "<|video|>",
}  # fmt: skip
# Frequencies that nothing turns by are divided by 1e30
_UNTURNED = 1e29
_MOST_FREQUENCIES = 4096
_SOFT_TOKENS, _PATCH, _POOL = 280, 16, 3


def gguf_config(files: GgufFiles, name: str) -> dict[str, Any]:
    """The model's config.json, as transformers would have it.

    Raises:
        ModelError: the files lack what it is made of.
    """
    path = files.texts[0]

    def refusal(cause: str) -> ModelError:
        return ModelError(
            f"{name} cannot be used: the metadata of {path.name} is no whole Gemma 4's ({cause});"
            " take another file of the same model"
        )

    with border(refusal):
        image = _image_config(files) if files.tower else None
        family = "gemma4_unified" if files.is_unified else _FAMILY
        vocabulary = read_header(path, name, (TOKENS,)).fields.get(TOKENS, [])
        places = {token: place for place, token in enumerate(vocabulary)}
        return {
            "model_type": family,
            "tie_word_embeddings": "output.weight" not in files.tensors,
            "text_config": _text_config(files, f"{family}_text"),
            "vision_config": image,
            "audio_config": None,
            **{key: places[token] for key, token in _MEDIA.items() if token in places},
        }


def gguf_generation(files: GgufFiles) -> dict[str, Any]:
    """The generation_config.json that the file stands for."""
    fields = files.fields
    keys = {"temperature": "general.sampling.temp"}
    keys["suppress_tokens"] = "tokenizer.ggml.suppress_tokens"
    found = {ours: fields[theirs] for ours, theirs in keys.items() if theirs in fields}
    ends = [fields.get(f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot", "eom")]
    return found | {"eos_token_id": [token for token in ends if token is not None]}


def soft_tokens(files: GgufFiles) -> int:
    """The budget of a picture where nobody asks for another: Google's, or what the file says."""
    pixels = files.tower_fields.get(_PIXELS + "image_max_pixels")
    side = _PATCH * _POOL
    return max(1, int(pixels) // side**2) if pixels else _SOFT_TOKENS


def _text_config(files: GgufFiles, kind: str) -> dict[str, Any]:
    values = _Values(files.fields)
    layers = values.count("block_count")
    is_sliding = values.layers("attention.sliding_window_pattern", layers)
    shared = values.count("attention.shared_kv_layers", 0)
    own = layers - shared
    inner = values.layers("feed_forward_length", layers)
    kv_heads = values.layers("attention.head_count_kv", layers)
    per_layer = values.count("embedding_length_per_layer_input", 0)
    vocabulary, hidden = files.tensors["token_embd.weight"].shape
    sliding = [layer for layer in range(layers) if is_sliding[layer]]
    seeing_all = [layer for layer in range(layers) if not is_sliding[layer]]
    has_experts = "blk.0.ffn_gate_inp.weight" in files.tensors
    config = {
        "model_type": kind,
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": inner[0],
        "use_double_wide_mlp": inner[-1] == 2 * inner[0],
        "num_hidden_layers": layers,
        "layer_types": [f"{'sliding' if each else 'full'}_attention" for each in is_sliding],
        "num_attention_heads": values.layers("attention.head_count", layers)[0],
        "num_key_value_heads": kv_heads[(sliding or seeing_all)[0]],
        "num_global_key_value_heads": kv_heads[(seeing_all or sliding)[0]],
        "head_dim": values.count("attention.key_length_swa"),
        "global_head_dim": values.count("attention.key_length"),
        "attention_k_eq_v": any(
            f"blk.{layer}.attn_v.weight" not in files.tensors
            and not _has_fused_values(files, layer, kv_heads[layer])
            for layer in seeing_all
            if layer < own
        ),
        "num_kv_shared_layers": shared,
        "sliding_window": values.count("attention.sliding_window"),
        "max_position_embeddings": values.count("context_length"),
        "hidden_size_per_layer_input": per_layer,
        "vocab_size_per_layer_input": _rows(files, "per_layer_token_embd.weight", vocabulary),
        # The models with per-layer embeddings read pictures from left to right
        "use_bidirectional_attention": None if per_layer else "vision",
        "rms_norm_eps": values.get("attention.layer_norm_rms_epsilon", 1e-6),
        "final_logit_softcapping": values.get("final_logit_softcapping"),
        "rope_parameters": _rope(files, values),
        "enable_moe_block": has_experts,
        "num_experts": values.get("expert_count") if has_experts else None,
        "top_k_experts": values.get("expert_used_count") if has_experts else None,
        "moe_intermediate_size": values.get("expert_feed_forward_length") if has_experts else None,
        **{
            f"{key}_token_id": files.fields.get(f"tokenizer.ggml.{theirs}_token_id")
            for key, theirs in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
        },
    }
    return {key: value for key, value in config.items() if value is not None}


def _has_fused_values(files: GgufFiles, layer: int, kv_heads: int) -> bool:
    """Whether queries, keys and values lie in one matrix, values among them."""
    fused = files.tensors.get(f"blk.{layer}.attn_qkv.weight")
    if fused is None:
        return False
    width = files.tensors[f"blk.{layer}.attn_q_norm.weight"].shape[0]
    query = files.tensors[f"blk.{layer}.attn_output.weight"].shape[1]
    return fused.shape[0] == query + 2 * kv_heads * width


def _rows(files: GgufFiles, key: str, otherwise: int) -> int:
    tensor = files.tensors.get(key)
    return tensor.shape[0] if tensor else otherwise


def _rope(files: GgufFiles, values: _Values) -> dict[str, Any]:
    share = 0.25
    factors = files.tensors.get("rope_freqs.weight")
    if factors is not None and factors.kind == "F32" and factors.shape[0] <= _MOST_FREQUENCIES:
        count = factors.shape[0]
        with factors.path.open("rb") as file:
            file.seek(factors.begin)
            divisors = struct.unpack(f"<{count}f", file.read(4 * count))
        share = sum(divisor < _UNTURNED for divisor in divisors) / count
    return {
        "full_attention": {
            "rope_type": "proportional",
            "partial_rotary_factor": share,
            "rope_theta": values.get("rope.freq_base", 1_000_000.0),
        },
        "sliding_attention": {
            "rope_type": "default",
            "rope_theta": values.get("rope.freq_base_swa", 10_000.0),
        },
    }


def _image_config(files: GgufFiles) -> dict[str, Any]:
    values = _Values(files.tower_fields, _PIXELS)
    places = files.tensors["v.position_embd.weight"].shape
    patches = files.tensors["v.patch_embd.weight"].shape
    if files.is_unified:
        side = round((patches[1] / 3) ** 0.5)
        return {
            "model_type": "gemma4_unified_vision",
            "mm_embed_dim": patches[0],
            "mm_posemb_size": places[1],
            "output_proj_dims": files.tensors["mm.input_projection.weight"].shape[1],
            "patch_size": side // _POOL,
            "pooling_kernel_size": _POOL,
        }
    heads, width = values.count("attention.head_count"), patches[0]
    size = _rows(files, "v.blk.0.attn_q_norm.weight", width // heads)
    return {
        "model_type": "gemma4_vision",
        "hidden_size": width,
        "intermediate_size": values.count("feed_forward_length"),
        "num_hidden_layers": values.count("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": _rows(files, "v.blk.0.attn_k.weight", heads * size) // size,
        "head_dim": size,
        "patch_size": patches[-1],
        "pooling_kernel_size": values.get("projector.scale_factor", _POOL),
        "position_embedding_size": places[1],
        "standardize": "v.std_bias" in files.tensors,
        "use_clipped_linears": "v.blk.0.attn_q.input_max" in files.tensors,
        "rms_norm_eps": values.get("attention.layer_norm_epsilon", 1e-6),
    }


class _Values:
    """The fields of one family, by the rest of their names."""

    def __init__(self, fields: Mapping[str, Any], prefix: str = _FAMILY + ".") -> None:
        self._fields, self._prefix = fields, prefix

    def get(self, key: str, default: Any = None) -> Any:
        return self._fields.get(self._prefix + key, default)

    def count(self, key: str, default: int | None = None) -> int:
        value = self.get(key, default)
        if type(value) is not int or value < 0:
            raise ValueError(f"{self._prefix}{key} is {value!r:.40}, not a whole number")
        return value

    def layers(self, key: str, layers: int) -> list[int]:
        """A value for each layer, where the file has one for all or a list."""
        value = self.get(key)
        if isinstance(value, list) and len(value) >= layers > 0:
            return value[:layers]
        if type(value) is int and key.endswith("_pattern"):
            # Every so many layers one sees everything
            return [(layer + 1) % max(value, 1) for layer in range(layers)]
        if type(value) is int and layers < _MOST_FREQUENCIES:
            return [value] * layers
        raise ValueError(f"{self._prefix}{key} is {value!r:.40}")
