"""The tokenizer that a GGUF file holds. No torch.

Types of tokens and names of kinds: llama.cpp, `llama_token_attr` in llama.h and llama-vocab.cpp.
Gemma 4's own is transformers' `GemmaTokenizer` (models/gemma/tokenization_gemma.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from rqchat.engine.foreign import border
from rqchat.engine.model_files.gguf.gguf_files import GgufFiles
from rqchat.engine.model_files.gguf.gguf_header import read_header
from rqchat.errors import ModelError

__all__ = ["gguf_tokenizer", "has_tokenizer", "special_tokens"]

_KEY = "tokenizer.ggml."
_LISTS = tuple(_KEY + key for key in ("tokens", "merges", "token_type"))
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4
# Converters mark what structures a conversation as control tokens or not, by their age
_STRUCTURE = re.compile(r"<\|[^\s<>]*>|<[^\s<>]*\|>")
_SPECIAL = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
_SPACE = "▁"


def has_tokenizer(files: GgufFiles) -> bool:
    """Whether there is one."""
    return f"{_KEY}model" in files.fields


def gguf_tokenizer(files: GgufFiles, name: str) -> Tokenizer:
    """The tokenizer of the text model.

    Raises:
        ModelError: there is none, or one of a kind that no Gemma 4 has.
    """
    path = files.texts[0]
    if not has_tokenizer(files):
        raise ModelError(
            f"{name} cannot be used: {path.name} holds no tokenizer; put tokenizer.json and"
            f" config.json of the same model into {path.parent}, or take another file"
        )
    fields = read_header(path, name, _LISTS).fields
    with border(
        lambda cause: ModelError(
            f"the tokenizer of {name} cannot be read: {cause}; download {path.name} again"
        )
    ):
        tokens: list[str] = fields[_LISTS[0]]
        merges = [tuple(str(merge).split(" ")) for merge in fields.get(_LISTS[1], ())]
        tokenizer = _tokenizer(fields, {token: place for place, token in enumerate(tokens)}, merges)
        kinds = fields.get(_LISTS[2]) or [1] * len(tokens)
        added = [_added(*each) for each in zip(tokens, kinds, strict=True)]
        tokenizer.add_tokens([token for token in added if token is not None])
        return tokenizer


def special_tokens(files: GgufFiles, tokenizer: Tokenizer) -> dict[str, str]:
    """What transformers calls `bos_token`, `eos_token`, `pad_token` and `unk_token`."""
    ids = {ours: files.fields.get(f"{_KEY}{key}_token_id") for ours, key in _SPECIAL.items()}
    words = {key: tokenizer.id_to_token(each) for key, each in ids.items() if each is not None}
    return {f"{key}_token": word for key, word in words.items() if word is not None}


def _tokenizer(
    fields: Mapping[str, Any], vocabulary: dict[str, int], merges: list[Any]
) -> Tokenizer:
    kind, before = fields[f"{_KEY}model"], fields.get(f"{_KEY}pre", "default")
    if kind == "gemma4":
        unknown = next((w for w, place in vocabulary.items() if place == _unknown(fields)), None)
        model = models.BPE(vocabulary, merges, fuse_unk=True, byte_fallback=True, unk_token=unknown)
        tokenizer = Tokenizer(model)
        tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
        steps = decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()
        tokenizer.decoder = decoders.Sequence(list(steps))
        return tokenizer
    if kind != "gpt2" or before not in ("default", "gpt-2", "smollm"):
        raise ValueError(f"it is of the kind {kind!r:.40} ({before!r:.40}), which no Gemma 4 has")
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = [pre_tokenizers.Digits(individual_digits=True)] if before == "smollm" else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*digits, words])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _unknown(fields: Mapping[str, Any]) -> int:
    return int(fields.get(f"{_KEY}unknown_token_id", -1))


def _added(token: str, kind: int) -> AddedToken | None:
    """The token as text holds it whole, or None where it is made of merges."""
    special = kind in (_UNKNOWN, _CONTROL) or _STRUCTURE.fullmatch(token) is not None
    if special or kind == _USER_DEFINED:
        return AddedToken(token, special=special, normalized=False)
    return None
