"""What several tests need: a tiny random Gemma 4 in a folder, as a hub model would lie there."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.pdf_files import pdf_bytes

__all__ = [
    "SPECIAL_TOKENS",
    "TEMPLATE",
    "TINY_CONFIG",
    "WebPages",
    "build_tiny_model",
    "byte_tokenizer",
    "pdf_bytes",
    "small_e_model",
]

SPECIAL_TOKENS = [
    *("<pad>", "<eos>", "<bos>", "<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|think|>"),
    *("<|image>", "<|image|>", "<image|>", "<|audio>", "<|audio|>", "<audio|>", "<|video|>"),
]
_IDS = {token: index for index, token in enumerate(SPECIAL_TOKENS)}

# Google's canonical format, as far as text and pictures go
TEMPLATE = """
{%- macro body(content) -%}
{%- if content is string -%}{{- content | trim -}}
{%- else -%}
{%- for part in content -%}
{{- '<|image|>' if part['type'] == 'image' else part['text'] | trim -}}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{{- bos_token -}}
{%- set system = messages[0]['role'] == 'system' -%}
{%- if enable_thinking or system -%}
{{- '<|turn>system\\n' + ('<|think|>\\n' if enable_thinking else '') -}}
{{- body(messages[0]['content']) if system else '' -}}{{- '<turn|>\\n' -}}
{%- endif -%}
{%- for message in messages if message['role'] != 'system' -%}
{{- '<|turn>' + ('model' if message['role'] == 'assistant' else 'user') + '\\n' -}}
{{- body(message['content']) + '<turn|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|turn>model\\n' + ('' if enable_thinking else '<|channel>thought\\n<channel|>') -}}
{%- endif -%}
"""

TINY_CONFIG: dict[str, Any] = {
    "model_type": "gemma4",
    "text_config": {
        "model_type": "gemma4_text",
        "vocab_size": 271,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_global_key_value_heads": 1,
        "head_dim": 16,
        "global_head_dim": 32,
        "attention_k_eq_v": True,
        "sliding_window": 24,
        "max_position_embeddings": 2048,
        "hidden_size_per_layer_input": 0,
        "vocab_size_per_layer_input": 271,
        "num_kv_shared_layers": 0,
        "use_bidirectional_attention": "vision",
        "final_logit_softcapping": 30.0,
        "eos_token_id": [_IDS["<eos>"], _IDS["<turn|>"]],
        "bos_token_id": _IDS["<bos>"],
        "pad_token_id": _IDS["<pad>"],
    },
    "vision_config": {
        "model_type": "gemma4_vision",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "patch_size": 16,
        "pooling_kernel_size": 3,
        "position_embedding_size": 512,
        "standardize": True,
    },
    "boi_token_id": _IDS["<|image>"],
    "image_token_id": _IDS["<|image|>"],
    "eoi_token_id": _IDS["<image|>"],
    "boa_token_id": _IDS["<|audio>"],
    "audio_token_id": _IDS["<|audio|>"],
    "eoa_token_index": _IDS["<audio|>"],
    "video_token_id": _IDS["<|video|>"],
}


def small_e_model(base: dict[str, Any], **text: Any) -> dict[str, Any]:
    """E2B and E4B in small: per-layer embeddings, borrowed KV, wide MLPs, clipped towers, audio."""
    return base | {
        "text_config": base["text_config"]
        | {
            "attention_k_eq_v": False,
            "num_hidden_layers": 12,
            "num_kv_shared_layers": 6,
            "use_double_wide_mlp": True,
        }
        | text,
        "vision_config": base["vision_config"]
        | {"use_clipped_linears": True, "standardize": False},
        "audio_config": {
            "model_type": "gemma4_audio",
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "subsampling_conv_channels": [16, 8],
            "output_proj_dims": 96,
        },
    }


def build_tiny_model(
    folder: Path, *, seed: int = 0, config: dict[str, Any] = TINY_CONFIG, shard_bytes: int = 10**9
) -> Path:
    """Writes a random Gemma 4 of 0.3 M parameters with k_eq_v and an image tower into `folder`."""
    torch.manual_seed(seed)
    unified = config["model_type"] == "gemma4_unified"
    family = "Gemma4Unified" if unified else "Gemma4"
    kind: Any = getattr(transformers, f"{family}ForConditionalGeneration")
    model = kind(kind.config_class(**copy.deepcopy(config)))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:  # far from zero, so that a wrong mask or position shows
                weight.normal_(0.0, 1.2 / weight.shape[-1] ** 0.5)
            elif name.endswith("q_norm.weight"):
                weight.fill_(weight.numel() ** -0.5)
        tower = getattr(model.model, "vision_tower", None)
        if tower is not None and tower.config.standardize:
            tower.std_bias.zero_()
            tower.std_scale.fill_(1.0)
    model.generation_config.eos_token_id = TINY_CONFIG["text_config"]["eos_token_id"]
    model.save_pretrained(folder, max_shard_size=shard_bytes)
    byte_tokenizer().save_pretrained(folder)
    processor = {
        "image_processor_type": "Gemma4ImageProcessor",
        "max_soft_tokens": 70,
        "patch_size": 16,
        "pooling_kernel_size": 3,
        "do_normalize": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    return folder


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, and Gemma's control tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {**_IDS, **{char: len(_IDS) + i for i, char in enumerate(alphabet)}}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in SPECIAL_TOKENS])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    )
    fast.chat_template = TEMPLATE
    return fast


@dataclass
class WebPages:
    """What a test's web server answers: status, headers, body for each path.

    Attributes:
        root: its address, without the path.
        pause_s: seconds between the bytes of a body, for a server that is too slow.
        finished: the paths whose body has gone out to its end.
    """

    pages: dict[str, tuple[int, Mapping[str, str], bytes]]
    root: str = ""
    pause_s: float = 0.0
    finished: set[str] = field(default_factory=set)

    def handler(self) -> type[BaseHTTPRequestHandler]:
        """The class that a server of the standard library takes."""
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, headers, body = web.pages.get(self.path, (404, {}, b""))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                step = 1 if web.pause_s else max(1, len(body))
                try:
                    for start in range(0, len(body), step):
                        self.wfile.write(body[start : start + step])
                        time.sleep(web.pause_s)
                except OSError:
                    return
                web.finished.add(self.path)

            def log_message(self, format: str, *arguments: object) -> None:
                """Nothing: standard error belongs to the test."""

        return Handler
