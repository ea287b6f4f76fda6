"""The size of a model from its config.json: parameters per group and geometry of the KV cache.

Plain arithmetic, no torch. The counts follow the module tree of transformers 5.17 to 5.23
(`models/gemma4` and `models/gemma4_unified`); the tests compare them with the modules themselves.
"""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rqchat.engine.foreign import border
from rqchat.engine.planning.config_section import ConfigSection
from rqchat.errors import ModelError

__all__ = ["KVLayers", "Matrices", "ModelShape"]

_FAMILIES = ("gemma4", "gemma4_unified")
_PER_LAYER_WIDTH, _VOCABULARY = 256, 262_144
_MOST_LAYERS = 4096
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
        vision_largest: values of the largest single tensor among them.
        audio: audio tower and projection, where the checkpoint has them; nothing loads them.
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
    vision_largest: int
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
    def per_layer_width(self) -> int:
        """Values that a token looks up for all layers together (E2B, E4B); 0 without."""
        return self.embedding_row - self.hidden

    @property
    def per_layer_rows(self) -> int:
        """Rows of the table that they are looked up in."""
        return self.embedding_rows - self.vocabulary

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
            ModelError: another family's config, or a field is missing or makes no sense.
        """
        family = config.get("model_type")
        if family not in _FAMILIES:
            raise ModelError(
                f"this model is of the family {reprlib.repr(family)}; rqchat runs Gemma 4"
                f" (model_type {' or '.join(_FAMILIES)}), such as --model google/gemma-4-31B-it"
            )
        with border(_refusal):
            return _from_sections(ConfigSection(config))


@dataclass(frozen=True, slots=True)
class _Layer:
    """One decoder layer: its linears as (rows, columns), and how many other weights it has."""

    linears: tuple[tuple[int, int], ...]
    norms: int


def _refusal(cause: str) -> ModelError:
    return ModelError(
        f"its config.json is no whole Gemma 4 config ({cause}); download the model again"
    )


def _from_sections(config: ConfigSection) -> ModelShape:
    text = config.section("text_config")
    if text is None:
        raise ValueError("text_config is missing")
    kinds = _layer_types(text)
    # The layers that borrow are the last ones.
    shared = text.count("num_kv_shared_layers", 0, least=0, most=len(kinds) - 1)
    stored = kinds[: len(kinds) - shared]
    tied = text.flag("attention_k_eq_v")
    layers = [
        _layer(text, kind == "full_attention", borrows=index >= len(stored))
        for index, kind in enumerate(kinds)
    ]
    hidden, vocabulary = text.count("hidden_size"), text.count("vocab_size")
    ple_width, ple_vocabulary = _per_layer_inputs(text)
    ple_row = len(kinds) * ple_width
    linears = [linear for layer in layers for linear in layer.linears]
    linears += [(ple_row, hidden)] if ple_width else []
    tied_in_text = text.flag("tie_word_embeddings", default=True)
    own_head = not config.flag("tie_word_embeddings", default=tied_in_text)
    vision, audio = config.section("vision_config"), config.section("audio_config")
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
        vision_largest=_largest_in_vision(vision, hidden) if vision else 0,
        audio=_audio_parameters(audio, hidden) if audio else 0,
        hidden=hidden,
        query_heads=text.count("num_attention_heads"),
        vocabulary=vocabulary,
        vision_hidden=vision.count("hidden_size", 0) if vision else 0,
        vision_intermediate=vision.count("intermediate_size", 0) if vision else 0,
        global_kv=KVLayers(stored.count("full_attention"), global_heads, global_dim, tied),
        sliding_kv=KVLayers(stored.count("sliding_attention"), sliding_heads, sliding_dim),
        window=text.count("sliding_window"),
        max_context_tokens=text.count("max_position_embeddings"),
    )


def _layer_types(text: ConfigSection) -> list[str]:
    count = text.count("num_hidden_layers", most=_MOST_LAYERS)
    given = text.get("layer_types")
    if given:
        kinds = list(given)
    else:
        kinds = ["sliding_attention"] * count
        kinds[_DEFAULT_PATTERN - 1 :: _DEFAULT_PATTERN] = ["full_attention"] * (
            count // _DEFAULT_PATTERN
        )
    known = ("full_attention", "sliding_attention")
    if len(kinds) != count or any(kind not in known for kind in kinds):
        raise ValueError(f"layer_types does not name {count} full or sliding layers")
    kinds[-1] = "full_attention"  # transformers forces the last layer to be global
    return kinds


def _kv_heads(text: ConfigSection, *, is_global: bool) -> tuple[int, int]:
    """KV heads and head size of one kind of layer."""
    heads, head_dim = text.count("num_key_value_heads"), text.count("head_dim")
    if not is_global:
        return heads, head_dim
    overrides = text.section("per_layer_config")
    if overrides:  # how transformers 5.15 and later write the sizes; the last layer is global
        last = overrides.section(str(text.count("num_hidden_layers") - 1))
        if last is None:
            raise ValueError("text_config.per_layer_config lacks the last layer")
        return last.count("num_key_value_heads", heads), last.count("head_dim", head_dim)
    # The override holds for k_eq_v models only: configuration_gemma4.py
    if text.flag("attention_k_eq_v"):
        heads = text.count("num_global_key_value_heads", heads)
    return heads, text.count("global_head_dim", 512)


def _layer(text: ConfigSection, is_global: bool, *, borrows: bool) -> _Layer:
    hidden, inner = text.count("hidden_size"), text.count("intermediate_size")
    heads, head_dim = _kv_heads(text, is_global=is_global)
    query_heads = text.count("num_attention_heads")
    if query_heads % heads:
        raise ValueError(f"{query_heads} attention heads cannot share {heads} KV heads evenly")
    query, kv = query_heads * head_dim, heads * head_dim
    if borrows:
        kv_linears = 0
        # transformers widens the MLP in layers that borrow K and V alone.
        inner *= 2 if text.flag("use_double_wide_mlp") else 1
    else:
        kv_linears = 1 if is_global and text.flag("attention_k_eq_v") else 2
    linears = [(query, hidden), (hidden, query), *[(kv, hidden)] * kv_linears]
    linears += [(inner, hidden), (inner, hidden), (hidden, inner)]
    norms = 4 * hidden + 1 + head_dim * (1 if borrows else 2)  # 1: layer_scalar
    if text.flag("attention_bias"):
        norms += query + hidden + kv_linears * kv
    width, _ = _per_layer_inputs(text)
    if width:
        linears, norms = [*linears, (width, hidden), (hidden, width)], norms + hidden
    if not text.flag("enable_moe_block"):
        return _Layer(tuple(linears), norms)
    # Three norms, the router's scale, and one for each expert
    return _Layer(tuple(linears), norms + 3 * hidden + hidden + text.count("num_experts"))


def _per_layer_inputs(text: ConfigSection) -> tuple[int, int]:
    """Width and vocabulary of the per-layer embeddings (E2B, E4B); 0 and 0 without.

    A config that says nothing has them: transformers' defaults, in `configuration_gemma4.py`.
    """
    key = "hidden_size_per_layer_input"
    silent = text.get("model_type") == "gemma4_text" and key not in text
    width = text.count(key, _PER_LAYER_WIDTH if silent else 0, least=0)
    return width, text.count("vocab_size_per_layer_input", _VOCABULARY) if width else 0


def _mixture_fields(text: ConfigSection, layers: int) -> dict[str, Any]:
    """The fields of `ModelShape` that describe experts; every layer has some, or none has."""
    if not text.flag("enable_moe_block"):
        return {"experts": (), "top_experts": 0, "routers": 0}
    hidden, inner = text.count("hidden_size"), text.count("moe_intermediate_size")
    experts = text.count("num_experts")
    top = text.count("top_k_experts", most=experts)
    sizes = (2 * inner, hidden), (hidden, inner)
    return {
        "experts": tuple(Matrices(*size, layers * experts, layers * top) for size in sizes),
        "top_experts": top,
        "routers": layers * hidden * experts,
    }


def _vision_parameters(vision: ConfigSection, text_hidden: int) -> int:
    """Parameters of the image tower with its projection to `text_hidden`, buffers included."""
    if vision.get("model_type") == "gemma4_unified_vision":
        return _unified_vision_parameters(vision, text_hidden)
    hidden, inner = vision.count("hidden_size"), vision.count("intermediate_size")
    head_dim = vision.count("head_dim")
    query_rows = vision.count("num_attention_heads") * head_dim
    kv_rows = vision.count("num_key_value_heads") * head_dim
    # Queries and output, keys and values, and the three matrices of the MLP.
    layer = 2 * hidden * query_rows + 2 * hidden * kv_rows + 3 * hidden * inner
    # Four norms of the stream, and those of queries and keys.
    layer += 4 * hidden + 2 * head_dim
    if vision.flag("use_clipped_linears"):
        layer += 7 * 4  # four bounds at each of seven linears
    patch = 3 * vision.count("patch_size", 16) ** 2 * hidden
    # A table for each axis.
    positions = 2 * vision.count("position_embedding_size", 10_240) * hidden
    standardize = 2 * hidden if vision.flag("standardize") else 0
    layers = vision.count("num_hidden_layers", most=_MOST_LAYERS)
    return layers * layer + patch + positions + standardize + hidden * text_hidden


def _largest_in_vision(vision: ConfigSection, text_hidden: int) -> int:
    """Values of the largest of these: positions, patches or an MLP's matrix, the projection."""
    if vision.get("model_type") == "gemma4_unified_vision":
        width = vision.count("mm_embed_dim", 3840)
        side = vision.count("patch_size", 16) * vision.count("pooling_kernel_size", 3)
        positions = 2 * vision.count("mm_posemb_size", 1120)
        projected = vision.count("output_proj_dims", width)
        return max(width * max(3 * side**2, positions), projected * text_hidden)
    hidden = vision.count("hidden_size")
    positions = 2 * vision.count("position_embedding_size", 10_240)
    return hidden * max(positions, vision.count("intermediate_size"), text_hidden)


def _unified_vision_parameters(vision: ConfigSection, text_hidden: int) -> int:
    """The 12B has no tower: three LayerNorms and a biased linear over 48 x 48 pixels."""
    width = vision.count("mm_embed_dim", 3840)
    side = vision.count("patch_size", 16) * vision.count("pooling_kernel_size", 3)
    pixels = 3 * side**2
    positions = 2 * vision.count("mm_posemb_size", 1120) * width
    # A weight and a bias each: of one norm over pixels, and two over the width.
    norms = 2 * pixels + 4 * width
    projection = vision.count("output_proj_dims", width) * text_hidden
    return norms + pixels * width + width + positions + projection


def _audio_parameters(audio: ConfigSection, text_hidden: int) -> int:
    """Parameters of the audio tower with its projection, buffers included."""
    if audio.get("model_type") == "gemma4_unified_audio":
        return audio.count("audio_embed_dim", 640) * text_hidden
    hidden = audio.count("hidden_size", 1024)
    layers = audio.count("num_hidden_layers", 12, most=_MOST_LAYERS)
    first, second = _channels(audio.get("subsampling_conv_channels") or (128, 32))
    width = audio.count("output_proj_dims", 1536)
    subsampling = 9 * first + first + 9 * first * second + second
    subsampling += (first // 4) * second * hidden
    feed_forward = 8 * hidden**2 + 2 * hidden
    head_dim = hidden // audio.count("num_attention_heads", 8)
    attention = 5 * hidden**2 + head_dim
    convolution = 3 * hidden**2 + audio.count("conv_kernel_size", 5) * hidden + 2 * hidden
    layer = 2 * feed_forward + attention + convolution + 3 * hidden
    if audio.flag("use_clipped_linears", default=True):
        layer += 10 * 4  # four bounds at each of ten clipped linears
    return subsampling + layers * layer + hidden * width + width + width * text_hidden


def _channels(given: Any) -> tuple[int, int]:
    """Channels of the two convolutions that the audio tower begins with."""
    names = "first", "second"
    place = "audio_config.subsampling_conv_channels"
    pair = ConfigSection(dict(zip(names, given, strict=True)), place)
    return pair.count("first"), pair.count("second")
