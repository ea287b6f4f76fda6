"""Parameter counts of the image and audio towers of Gemma 4, as transformers builds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["audio_parameters", "vision_parameters"]


def vision_parameters(vision: Mapping[str, Any], text_hidden: int) -> int:
    """Parameters of the image tower with its projection to `text_hidden`, buffers included."""
    if vision.get("model_type") == "gemma4_unified_vision":
        return _unified_vision_parameters(vision, text_hidden)
    hidden, inner = int(vision["hidden_size"]), int(vision["intermediate_size"])
    head_dim = int(vision["head_dim"])
    query_rows = int(vision["num_attention_heads"]) * head_dim
    kv_rows = int(vision["num_key_value_heads"]) * head_dim
    layer = 2 * hidden * query_rows + 2 * hidden * kv_rows + 3 * hidden * inner
    layer += 4 * hidden + 2 * head_dim
    if vision.get("use_clipped_linears", False):
        layer += 7 * 4  # four bounds at each of seven linears
    patch = 3 * int(vision.get("patch_size", 16)) ** 2 * hidden
    positions = 2 * int(vision.get("position_embedding_size", 10_240)) * hidden
    standardize = 2 * hidden if vision.get("standardize", False) else 0
    layers = int(vision["num_hidden_layers"])
    return layers * layer + patch + positions + standardize + hidden * text_hidden


def _unified_vision_parameters(vision: Mapping[str, Any], text_hidden: int) -> int:
    """The 12B has no tower: three LayerNorms and a biased linear over 48 x 48 pixels."""
    width = int(vision.get("mm_embed_dim", 3840))
    side = int(vision.get("patch_size", 16)) * int(vision.get("pooling_kernel_size", 3))
    pixels = 3 * side**2
    positions = 2 * int(vision.get("mm_posemb_size", 1120)) * width
    norms = 2 * pixels + 4 * width
    projection = int(vision.get("output_proj_dims", width)) * text_hidden
    return norms + pixels * width + width + positions + projection


def audio_parameters(audio: Mapping[str, Any], text_hidden: int) -> int:
    """Parameters of the audio tower with its projection, buffers included."""
    if audio.get("model_type") == "gemma4_unified_audio":
        return int(audio.get("audio_embed_dim", 640)) * text_hidden
    hidden = int(audio.get("hidden_size", 1024))
    layers = int(audio.get("num_hidden_layers", 12))
    first, second = (int(n) for n in audio.get("subsampling_conv_channels", (128, 32)))
    width = int(audio.get("output_proj_dims", 1536))
    subsampling = 9 * first + first + 9 * first * second + second
    subsampling += (first // 4) * second * hidden
    feed_forward = 8 * hidden**2 + 2 * hidden
    head_dim = hidden // int(audio.get("num_attention_heads", 8))
    attention = 5 * hidden**2 + head_dim
    convolution = 3 * hidden**2 + int(audio.get("conv_kernel_size", 5)) * hidden + 2 * hidden
    layer = 2 * feed_forward + attention + convolution + 3 * hidden
    if audio.get("use_clipped_linears", True):
        layer += 10 * 4  # four bounds at each of ten clipped linears
    return subsampling + layers * layer + hidden * width + width + width * text_hidden
