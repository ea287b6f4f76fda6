"""The pocket model's architecture: Gemma 4 31B's structure at a ten-thousandth of its size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers.models.gemma4.configuration_gemma4 import (
    Gemma4Config,
    Gemma4TextConfig,
    Gemma4VisionConfig,
)
from transformers.models.gemma4.modeling_gemma4 import (
    Gemma4ForConditionalGeneration,
    Gemma4TextAttention,
    Gemma4VisionAttention,
)

__all__ = ["SPECIAL_TOKENS", "build_model", "model_folder", "pocket_config"]

# The spelling is Gemma 4's; the ids are the positions in this tuple.
SPECIAL_TOKENS = (
    "<pad>",
    "<eos>",
    "<bos>",
    "<unk>",
    "<|turn>",
    "<turn|>",
    "<|channel>",
    "<channel|>",
    "<|think|>",
    "<|image>",
    "<|image|>",
    "<image|>",
    "<|audio>",
    "<|audio|>",
    "<audio|>",
    "<|video|>",
    "<|tool>",
    "<tool|>",
    "<|tool_call>",
    "<tool_call|>",
    "<|tool_response>",
    "<tool_response|>",
    '<|"|>',
)
VOCABULARY_SIZE = 4096
CONTEXT_TOKENS = 32_768
_SUBLAYER_GAIN = 0.3


def model_folder() -> Path:
    """The folder that holds the shipped model's files."""
    return Path(__file__).parents[1]


def pocket_config() -> Gemma4Config:
    """Five sliding layers to one global one, K = V in the global one, as in the 31B.

    The window is 128 tokens, so that everything farther back has to come from the global layer,
    which is the one that RotorQuant packs.
    """
    token_id = {token: index for index, token in enumerate(SPECIAL_TOKENS)}
    # Keywords that the class takes and does not declare
    global_heads: dict[str, Any] = {"global_head_dim": 128, "num_global_key_value_heads": 1}
    text = Gemma4TextConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        **global_heads,
        attention_k_eq_v=True,
        sliding_window=128,
        max_position_embeddings=CONTEXT_TOKENS,
        final_logit_softcapping=30.0,
        use_bidirectional_attention="vision",
        hidden_size_per_layer_input=0,
        vocab_size_per_layer_input=VOCABULARY_SIZE,
        num_kv_shared_layers=0,
        pad_token_id=token_id["<pad>"],
        eos_token_id=[token_id["<eos>"], token_id["<turn|>"]],
        bos_token_id=token_id["<bos>"],
    )
    return Gemma4Config(
        text_config=text,
        vision_config=vision_config(),
        boi_token_id=token_id["<|image>"],
        image_token_id=token_id["<|image|>"],
        eoi_token_id=token_id["<image|>"],
        boa_token_id=token_id["<|audio>"],
        audio_token_id=token_id["<|audio|>"],
        eoa_token_index=token_id["<audio|>"],
        video_token_id=token_id["<|video|>"],
    )


def vision_config() -> Gemma4VisionConfig:
    """A four-layer tower; patch 16 and pooling 3 as in the 31B.

    840 positions a side cover the longest strip of patches that 280 soft tokens can make.
    """
    return Gemma4VisionConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        patch_size=16,
        pooling_kernel_size=3,
        position_embedding_size=840,
        standardize=True,
    )


def build_model(seed: int) -> Gemma4ForConditionalGeneration:
    """A fresh float32 model whose attention starts soft and whose residual stream starts clear.

    The attention scale is 1 and q and k have unit RMS, so with norm weights of 1 the logits would
    start with a standard deviation of sqrt(head_dim) and attention one-hot. Every sublayer ends in
    a norm, so with weights of 1 twelve unit-RMS updates would bury an embedding of RMS 0.23.
    """
    torch.manual_seed(seed)
    model = Gemma4ForConditionalGeneration(pocket_config())
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (Gemma4TextAttention, Gemma4VisionAttention)):
                module.q_norm.weight.fill_(module.head_dim**-0.5)
        language_model = model.model.language_model
        language_model.embed_tokens.weight.normal_(std=language_model.config.hidden_size**-0.5)
        for layer in language_model.layers:
            layer.post_attention_layernorm.weight.fill_(_SUBLAYER_GAIN)
            layer.post_feedforward_layernorm.weight.fill_(_SUBLAYER_GAIN)
        model.model.vision_tower.patch_embedder.position_embedding_table.zero_()
    return model
