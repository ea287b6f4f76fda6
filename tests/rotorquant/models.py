"""Tiny random models: small enough to run in milliseconds, far enough from zero to show a fault."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    Gemma4Config,
    Gemma4ForCausalLM,
    Gemma4ForConditionalGeneration,
    Gemma4TextConfig,
    Gemma4VisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

__all__ = [
    "IMAGE_TOKEN",
    "SHARED",
    "SMALL_WINDOW",
    "STRUCTURES",
    "VOCABULARY",
    "gemma",
    "gemma_with_images",
    "llama",
    "picture",
    "random_tokens",
    "read",
    "stored_in",
]

VOCABULARY = 96
IMAGE_TOKEN = 10
# Pages leave the exact window early, so that short sequences read packed tokens.
SMALL_WINDOW: dict[str, Any] = {"sink_tokens": 8, "recent_tokens": 24, "page_tokens": 16}
# Of the five sliding layers before a global one two are enough to tell them apart.
_LAYERS = ["sliding_attention", "sliding_attention", "full_attention"]
# As in E2B: K and V are stored apart, and the last layers read what others have stored.
SHARED: dict[str, Any] = {
    "num_hidden_layers": 6,
    "layer_types": 2 * _LAYERS,
    "num_kv_shared_layers": 3,
    "attention_k_eq_v": False,
    "hidden_size_per_layer_input": 8,
}


def gemma(dtype: torch.dtype = torch.float32, branch: float | None = 3.0, **changes: Any) -> Any:
    """Gemma 4: two sliding layers and a global one, `attention_k_eq_v` unless changed."""
    return _filled(Gemma4ForCausalLM(_text_config(**changes)), branch).to(dtype)


def gemma_with_images(**changes: Any) -> Any:
    """The same with an image tower: pictures of 12 soft tokens from `picture`."""
    vision = Gemma4VisionConfig(
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=12,
        patch_size=4,
        pooling_kernel_size=2,
        position_embedding_size=64,
    )
    config = Gemma4Config(
        text_config=_text_config(**changes),
        vision_config=vision,
        audio_config=None,
        boi_token_id=9,
        image_token_id=IMAGE_TOKEN,
        eoi_token_id=11,
        audio_token_id=13,
        boa_token_id=12,
        eoa_token_index=14,
        video_token_id=15,
    )
    return _filled(Gemma4ForConditionalGeneration(config), 3.0)


def llama() -> Any:
    """A plain decoder whose K and V are unrelated and whose heads have no norms."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        pad_token_id=0,
    )
    return _filled(LlamaForCausalLM(config))


def picture(count: int = 1) -> dict[str, torch.Tensor]:
    """Pixels and patch positions of `count` random pictures, 4 x 3 soft tokens each."""
    generator = torch.Generator().manual_seed(5)
    pixels = torch.rand(count, 48, 48, generator=generator)
    rows, columns = torch.meshgrid(torch.arange(6), torch.arange(8), indexing="ij")
    positions = torch.stack((columns, rows), dim=-1).reshape(1, 48, 2).repeat(count, 1, 1)
    return {"pixel_values": pixels, "image_position_ids": positions}


def random_tokens(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    """Token ids [batch, length] without special ones."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(20, VOCABULARY, (batch, length), generator=generator)


def _text_config(**changes: Any) -> Gemma4TextConfig:
    fields: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "layer_types": _LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "global_head_dim": 32,
        "num_global_key_value_heads": 1,
        "attention_k_eq_v": True,
        "sliding_window": 16,
        "hidden_size_per_layer_input": 0,
        "vocab_size_per_layer_input": VOCABULARY,
        "final_logit_softcapping": 30.0,
        "use_bidirectional_attention": "vision",
    }
    if "num_hidden_layers" in changes:
        fields.pop("layer_types")
    return Gemma4TextConfig(**{**fields, **changes})


def _filled(model: Any, branch: float | None = None) -> Any:
    """`branch` is the size of what a layer adds: with 1, three layers repeat the last token."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.normal_(0.0, 0.2, generator=generator)
            elif branch and "post_" in name:
                weight.fill_(branch)
            elif "k_norm" in name:
                weight.uniform_(0.5, 1.5, generator=generator)
            elif "q_norm" in name:
                weight.uniform_(0.3, 0.7, generator=generator)
    return model.eval()


def read(model: Any, cache: Any, tokens: torch.Tensor, **inputs: Any) -> torch.Tensor:
    """The logits of all tokens."""
    with torch.no_grad():
        logits: torch.Tensor = model(tokens, past_key_values=cache, **inputs).logits
    return logits


def stored_in(cache: Any) -> list[torch.Tensor]:
    """K and V of every layer that stores some, as the next query finds them."""
    return [rows.clone() for layer in cache._storing for rows in layer.dense()]


# Every way in which a model's layers can be stored
STRUCTURES: dict[str, Callable[[], Any]] = {
    "tied": gemma,
    "split": lambda: gemma(attention_k_eq_v=False),
    "shared": lambda: gemma(**SHARED),
    "llama": llama,
}
