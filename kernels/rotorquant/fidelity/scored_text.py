"""What a model is scored on: sequences of tokens, and which of them count."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoTokenizer

from rotorquant.cache import RotorQuantCache

__all__ = ["Sequence", "read_sequences", "scored_tokens", "write_sequence"]

_MODEL_TURN = "<|turn>model\n"
_TURN_END = "<turn|>"


class Sequence(NamedTuple):
    """ids [N]; scored [N] bool: whether the prediction of the token after this one counts."""

    ids: torch.Tensor
    scored: torch.Tensor


def read_sequences(folder: Path, path: Path) -> list[Sequence]:
    """Texts of a file, each from one first token (`<bos>`) to the next.

    In a text with Gemma's turns the model's own turns are scored, else every token. Without a
    `<bos>` in the file it is put in front of it, and the file is one text.
    """
    source: dict[str, Any] = {"local_files_only": True}
    if folder.suffix == ".gguf":
        source["gguf_file"], folder = folder.name, folder.parent
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, **source)
    text = path.read_text(encoding="utf-8")
    ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
    first = tokenizer.bos_token_id
    starts = [] if first is None else (ids == first).nonzero().flatten().tolist()
    if not starts:
        parts = [ids if first is None else torch.cat((torch.tensor([first]), ids))]
    else:
        parts = [ids[low:high] for low, high in zip(starts, [*starts[1:], len(ids)], strict=True)]
    begin, end = (
        tokenizer(mark, add_special_tokens=False)["input_ids"] for mark in (_MODEL_TURN, _TURN_END)
    )
    return [Sequence(part, scored_tokens(part, begin, end[-1])) for part in parts]


def scored_tokens(ids: torch.Tensor, begin: list[int], end: int) -> torch.Tensor:
    """[N] bool: tokens that are followed by one of a model's turn, its end included; else all.

    Args:
        ids: [N].
        begin: ids that open a model's turn.
        end: id that closes a turn.
    """
    listed, scored, inside = ids.tolist(), torch.zeros(len(ids), dtype=torch.bool), False
    for place in range(len(listed)):
        # The end was scored by the token before it; what follows it is not the model's.
        if listed[place] == end:
            inside = False
        if place + 1 >= len(begin) and listed[place + 1 - len(begin) : place + 1] == begin:
            inside = True
        scored[place] = inside
    return scored if bool(scored.any()) else torch.ones_like(scored)


@torch.no_grad()
def write_sequence(model: Any, tokens: int, seed: int) -> Sequence:
    """A text by the model itself, sampled at temperature 1: likely text without a file."""
    text = model.config.get_text_config(decoder=True)
    start = text.bos_token_id if text.bos_token_id is not None else 0
    ids = torch.tensor([[start]], device=model.device)
    # On the CPU, so that a seed gives the same text on every device, as far as logits agree.
    draw = torch.Generator().manual_seed(seed)
    cache = RotorQuantCache(model, bits=16)
    written = [start]
    for _ in range(tokens - 1):
        logits = model(ids, past_key_values=cache).logits[0, -1].float().cpu()
        ids = torch.multinomial(logits.softmax(-1), 1, generator=draw)[None].to(model.device)
        written.append(int(ids))
    return Sequence(torch.tensor(written), torch.ones(tokens, dtype=torch.bool))
