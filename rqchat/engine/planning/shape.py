"""The size of a model from its config.json: parameters per group and geometry of the KV cache.

Plain arithmetic, no torch. The counts follow the module tree of transformers 5.17 to 5.23
(`models/gemma4` and `models/gemma4_unified`); the tests compare them with the modules themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rqchat.errors import ModelError

__all__ = ["KVLayers", "Matrices", "ModelShape"]

_FAMILIES = ("gemma4", "gemma4_unified")
_PER_LAYER_WIDTH, _VOCABULARY = 256, 262_144
_DEFAULT_PATTERN = 6  # every sixth layer is global where the config names no layer types


@dataclass(frozen=True, slots=True)
class Matrices:
    """`count` linear layers of `rows` outputs and `columns` inputs each.

    A token reads `read` of them: all, but for a mixture's experts.
    """

    rows: int
    columns: int
    count: int
    read: int

    @property
    def weights(self) -> int:
        """Weights of all of these layers together."""
        return self.count * self.rows * self.columns


@dataclass(frozen=True, slots=True)
class KVLayers:
    """The layers of one kind that store keys and values.

    Attributes:
        layers: how many store their own (layers that borrow another's are not counted).
        heads: KV heads of each.
        head_dim: values per head.
        tied: `attention_k_eq_v`: K is a fixed function of V and the position, so V alone is kept.
    """

    layers: int
    heads: int
    head_dim: int
    tied: bool = False


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What the plan needs to know about a model; counts of parameters and persistent buffers.

    Attributes:
        matrices: the decoder's linear layers, which get quantized.
        experts: the matrices of a mixture's experts, which do not in every format.
        top_experts: those of a layer that one token is given to.
        routers: weights of the matrices that choose them, which never do.
        embedding: input embedding, per-layer embeddings included.
        embedding_rows: rows of those tables.
        embedding_row: values of the embedding that one token looks up.
        head: output head; 0 when tied to the embedding.
        norms: norm weights and scalars of the text model.
        vision: image tower and projection.
        audio: audio tower and projection, where the checkpoint has them.
        hidden, query_heads, vocabulary: widths of the text model.
        vision_hidden, vision_intermediate: widths of the image tower, 0 without one.
        global_kv, sliding_kv: the layers that see everything, and those that see `window` tokens.
        window: tokens a sliding layer sees, its own included.
        max_context_tokens: the longest sequence the model knows.
    """

    matrices: tuple[Matrices, ...]
    experts: tuple[Matrices, ...]
    top_experts: int
    routers: int
    embedding: int
    embedding_rows: int
    embedding_row: int
    head: int
    norms: int
    vision: int
    audio: int
    hidden: int
    query_heads: int
    vocabulary: int
    vision_hidden: int
    vision_intermediate: int
    global_kv: KVLayers
    sliding_kv: KVLayers
    window: int
    max_context_tokens: int

    @property
    def linears(self) -> int:
        """Weights of the decoder's linear layers, experts and routers included."""
        return sum(m.weights for m in (*self.matrices, *self.experts)) + self.routers

    @property
    def largest_matrix(self) -> int:
        """Weights of the biggest single linear layer."""
        return max(m.rows * m.columns for m in self.matrices)

    @property
    def parameters(self) -> int:
        """Parameters and persistent buffers of the whole model."""
        text = self.linears + self.embedding + self.head + self.norms
        return text + self.vision + self.audio

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ModelShape:
        """Reads a Gemma 4 `config.json`.

        Raises:
            ModelError: another family's config, or a field is missing or no number.
        """
        family = config.get("model_type")
        if family not in _FAMILIES:
            raise ModelError(
                f"this model is of the family {family!r}; rqchat runs Gemma 4"
                f" (model_type {' or '.join(_FAMILIES)}), such as --model google/gemma-4-31B-it"
            )
        try:
            return _from_text_config(config["text_config"], config)
        except (KeyError, TypeError, ValueError, StopIteration) as error:
            raise ModelError(
                f"its config.json is no whole Gemma 4 config ({error!r}); download the model again"
            ) from None


@dataclass(frozen=True, slots=True)
class _Layer:
    """One decoder layer: its linears as (rows, columns), and how many other weights it has."""

    linears: tuple[tuple[int, int], ...]
    norms: int


def _from_text_config(text: Mapping[str, Any], config: Mapping[str, Any]) -> ModelShape:
    kinds = _layer_types(text)
    # The layers that borrow are the last ones.
    stored = kinds[: len(kinds) - int(text.get("num_kv_shared_layers", 0))]
    tied = bool(text.get("attention_k_eq_v", False))
    layers = [
        _layer(text, kind == "full_attention", borrows=index >= len(stored))
        for index, kind in enumerate(kinds)
    ]
    hidden, vocabulary = int(text["hidden_size"]), int(text["vocab_size"])
    ple_width, ple_vocabulary = _per_layer_inputs(text)
    ple_row = len(kinds) * ple_width
    linears = [linear for layer in layers for linear in layer.linears]
    linears += [(ple_row, hidden)] if ple_width else []
    own_head = not config.get("tie_word_embeddings", text.get("tie_word_embeddings", True))
    vision, audio = config.get("vision_config"), config.get("audio_config")
    global_heads, global_dim = _kv_heads(text, is_global=True)
    sliding_heads, sliding_dim = _kv_heads(text, is_global=False)
    return ModelShape(
        matrices=tuple(Matrices(*size, n, n) for size, n in Counter(linears).items()),
        **_mixture_fields(text, len(layers)),
        embedding=vocabulary * hidden + ple_vocabulary * ple_row,
        embedding_rows=vocabulary + ple_vocabulary,
        embedding_row=hidden + ple_row,
        head=vocabulary * hidden if own_head else 0,
        norms=sum(layer.norms for layer in layers) + hidden + ple_width,
        vision=_vision_parameters(vision, hidden) if vision else 0,
        audio=_audio_parameters(audio, hidden) if audio else 0,
        hidden=hidden,
        query_heads=int(text["num_attention_heads"]),
        vocabulary=vocabulary,
        vision_hidden=int(vision.get("hidden_size", 0)) if vision else 0,
        vision_intermediate=int(vision.get("intermediate_size", 0)) if vision else 0,
        global_kv=KVLayers(stored.count("full_attention"), global_heads, global_dim, tied),
        sliding_kv=KVLayers(stored.count("sliding_attention"), sliding_heads, sliding_dim),
        window=int(text["sliding_window"]),
        max_context_tokens=int(text["max_position_embeddings"]),
    )


def _layer_types(text: Mapping[str, Any]) -> list[str]:
    count = int(text["num_hidden_layers"])
    given = text.get("layer_types")
    if given:
        kinds = [str(kind) for kind in given]
    else:
        kinds = ["sliding_attention"] * count
        kinds[_DEFAULT_PATTERN - 1 :: _DEFAULT_PATTERN] = ["full_attention"] * (
            count // _DEFAULT_PATTERN
        )
    kinds[-1] = "full_attention"  # transformers forces the last layer to be global
    if len(kinds) != count or set(kinds) - {"full_attention", "sliding_attention"}:
        raise ValueError(f"layer_types does not name {count} full or sliding layers")
    return kinds


def _kv_heads(text: Mapping[str, Any], *, is_global: bool) -> tuple[int, int]:
    """KV heads and head size of one kind of layer."""
    heads, head_dim = int(text["num_key_value_heads"]), int(text["head_dim"])
    if not is_global:
        return heads, head_dim
    overrides = text.get("per_layer_config")
    if overrides:  # how transformers 5.15 and later write the sizes; the last layer is global
        last = next(value for key, value in overrides.items() if int(key) == _last_index(text))
        return int(last.get("num_key_value_heads", heads)), int(last.get("head_dim", head_dim))
    given = text.get("num_global_key_value_heads")
    # The override holds for k_eq_v models only: configuration_gemma4.py
    if given is not None and text.get("attention_k_eq_v", False):
        heads = int(given)
    return heads, int(text.get("global_head_dim") or 512)


def _last_index(text: Mapping[str, Any]) -> int:
    return int(text["num_hidden_layers"]) - 1


def _layer(text: Mapping[str, Any], is_global: bool, *, borrows: bool) -> _Layer:
    hidden, inner = int(text["hidden_size"]), int(text["intermediate_size"])
    heads, head_dim = _kv_heads(text, is_global=is_global)
    query, kv = int(text["num_attention_heads"]) * head_dim, heads * head_dim
    if borrows:
        kv_linears = 0
        # transformers widens the MLP in layers that borrow K and V alone.
        inner *= 2 if text.get("use_double_wide_mlp", False) else 1
    else:
        kv_linears = 1 if is_global and text.get("attention_k_eq_v", False) else 2
    linears = [(query, hidden), (hidden, query), *[(kv, hidden)] * kv_linears]
    linears += [(inner, hidden), (inner, hidden), (hidden, inner)]
    norms = 4 * hidden + 1 + head_dim * (1 if borrows else 2)  # 1: layer_scalar
    if text.get("attention_bias", False):
        norms += query + hidden + kv_linears * kv
    width, _ = _per_layer_inputs(text)
    if width:
        linears, norms = [*linears, (width, hidden), (hidden, width)], norms + hidden
    if not text.get("enable_moe_block", False):
        return _Layer(tuple(linears), norms)
    # Three norms, the router's scale, and one for each expert
    return _Layer(tuple(linears), norms + 3 * hidden + hidden + int(text["num_experts"]))


def _per_layer_inputs(text: Mapping[str, Any]) -> tuple[int, int]:
    """Width and vocabulary of the per-layer embeddings (E2B, E4B); 0 and 0 without.

    A config that says nothing has them: transformers' defaults, in `configuration_gemma4.py`.
    """
    default = _PER_LAYER_WIDTH if text.get("model_type") == "gemma4_text" else 0
    width = int(text.get("hidden_size_per_layer_input", default) or 0)
    return width, int(text.get("vocab_size_per_layer_input", _VOCABULARY)) if width else 0


def _mixture_fields(text: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """The fields of `ModelShape` that describe experts; every layer has some, or none has."""
    if not text.get("enable_moe_block", False):
        return {"experts": (), "top_experts": 0, "routers": 0}
    hidden, inner = int(text["hidden_size"]), int(text["moe_intermediate_size"])
    experts, top = int(text["num_experts"]), int(text["top_k_experts"])
    sizes = (2 * inner, hidden), (hidden, inner)
    return {
        "experts": tuple(Matrices(*size, layers * experts, layers * top) for size in sizes),
        "top_experts": top,
        "routers": layers * hidden * experts,
    }


def _vision_parameters(vision: Mapping[str, Any], text_hidden: int) -> int:
    """Parameters of the image tower with its projection to `text_hidden`, buffers included."""
    if vision.get("model_type") == "gemma4_unified_vision":
        return _unified_vision_parameters(vision, text_hidden)
    hidden, inner = int(vision["hidden_size"]), int(vision["intermediate_size"])
    head_dim = int(vision["head_dim"])
    query_rows = int(vision["num_attention_heads"]) * head_dim
    kv_rows = int(vision["num_key_value_heads"]) * head_dim
    # Queries and output, keys and values, and the three matrices of the MLP.
    layer = 2 * hidden * query_rows + 2 * hidden * kv_rows + 3 * hidden * inner
    # Four norms of the stream, and those of queries and keys.
    layer += 4 * hidden + 2 * head_dim
    if vision.get("use_clipped_linears", False):
        layer += 7 * 4  # four bounds at each of seven linears
    patch = 3 * int(vision.get("patch_size", 16)) ** 2 * hidden
    # A table for each axis.
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
    # A weight and a bias each: of one norm over pixels, and two over the width.
    norms = 2 * pixels + 4 * width
    projection = int(vision.get("output_proj_dims", width)) * text_hidden
    return norms + pixels * width + width + positions + projection


def _audio_parameters(audio: Mapping[str, Any], text_hidden: int) -> int:
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
