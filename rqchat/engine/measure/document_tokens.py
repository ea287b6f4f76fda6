"""How many tokens documents and pictures have. Needs the model's tokenizer, and no torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import huggingface_hub as hub
from tokenizers import Tokenizer

from rqchat.engine.foreign import border
from rqchat.engine.inputs.documents import Document
from rqchat.engine.inputs.pictures import Picture, soft_token_count
from rqchat.engine.model_files.gguf.gguf_files import gguf_files
from rqchat.engine.model_files.gguf.gguf_tokenizer import gguf_tokenizer
from rqchat.engine.model_files.resolve import ModelSource
from rqchat.engine.planning.known_models import checkpoint_of
from rqchat.engine.planning.plan import MemoryPlan
from rqchat.errors import ContextLengthError, ModelError

__all__ = ["check_context", "count_tokens"]

_TOKENIZER = "tokenizer.json"
_TURN_TOKENS = 64  # template, name of the document and a short question, generously


def count_tokens(
    items: Iterable[Document | Picture], source: ModelSource, plan: MemoryPlan
) -> list[int]:
    """Tokens of each text, as the tokenizer of `source` makes them, or of each picture, as `plan`
    has it read.

    Raises:
        ModelError: the tokenizer is not on this machine, or is damaged.
    """
    file = source.file or _tokenizer_file(source)
    with border(
        lambda cause: ModelError(f"{file} cannot be read: {cause}; download the model again")
    ):
        if source.file is not None:
            tokenizer = gguf_tokenizer(gguf_files(file, source.name), source.name)
        else:
            tokenizer = Tokenizer.from_file(str(file))
        return [
            soft_token_count(each.width, each.height, plan.budget_of(each.wanted_tokens))
            if isinstance(each, Picture)
            else len(tokenizer.encode(each.text, add_special_tokens=False))
            for each in items
        ]


def check_context(document_tokens: int, plan: MemoryPlan) -> int:
    """Tokens that stay free beside documents of that many.

    Raises:
        ContextLengthError: none do.
    """
    chosen = plan.chosen
    left = chosen.context_tokens - document_tokens - _TURN_TOKENS
    if left > 0:
        return left
    longest = max(plan.candidates, key=lambda candidate: candidate.context_tokens)
    needed = document_tokens + _TURN_TOKENS
    way = "shorten or split it"
    if longest.context_tokens > needed:
        way += (
            f", or take --context {needed + 1024}, for which --weights {longest.weights}"
            f" --kv-bits {longest.kv_bits} fit"
        )
    raise ContextLengthError(
        f"{document_tokens:,} tokens do not fit into a context of {chosen.context_tokens:,}; {way}",
        input_tokens=document_tokens,
        context_tokens=chosen.context_tokens,
    )


def _tokenizer_file(source: ModelSource) -> Path:
    if source.folder is not None:
        return source.folder / _TOKENIZER
    for repository in (source.name, checkpoint_of(source.name, "int4")):
        found = hub.try_to_load_from_cache(repository, _TOKENIZER)
        if isinstance(found, str):
            return Path(found)
    raise ModelError(
        f"counting needs the tokenizer of {source.name}, which is not on this machine; run 'rqchat"
        f" pull {source.name} --tokenizer', or count with --model pocket for a rough idea"
    )
