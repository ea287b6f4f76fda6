"""An answer that matches a JSON schema: before each draw, what would break it is ruled out."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer
from torch import Tensor

from rqchat.engine.foreign import border
from rqchat.engine.generation.json_schema import schema_grammar
from rqchat.engine.generation.text_stream import CHANNEL_END, CHANNEL_START
from rqchat.errors import RqchatError

__all__ = ["Constraint", "Constraints"]


_FORCED_BYTES = 256  # of a text that has to come, before it is written without the library's mask


class Constraints:
    """Makes constraints for one model; its vocabulary is laid out once, for the first of them."""

    def __init__(
        self,
        tokenizer: Any,
        stop_ids: Collection[int],
        vocabulary_size: int,
        suppressed_ids: Collection[int] = (),
    ) -> None:
        """For a fast tokenizer, the tokens that end an answer, the number of logits, and the tokens
        that are never drawn."""
        self._suppressed_ids = frozenset(suppressed_ids)
        self._tokenizer, self._vocabulary_size = tokenizer, vocabulary_size
        self._stop_ids = sorted(stop_ids)
        self._words: LLTokenizer | None = None

    def for_schema(self, schema: str, *, thinking: bool) -> Constraint:
        """A constraint for one answer.

        Args:
            schema: a JSON schema that `read_schema` has let through.
            thinking: whether a thought may come first.

        Raises:
            RqchatError: the schema or the tokenizer cannot be used.
        """
        if self._words is None:
            with border(_no_words):
                self._words = from_tokenizer(
                    self._tokenizer, n_vocab=self._vocabulary_size, eos_token=self._stop_ids
                )
        start, end = (
            self._tokenizer.convert_tokens_to_ids(t) for t in (CHANNEL_START, CHANNEL_END)
        )
        matcher = LLMatcher(self._words, schema_grammar(schema), log_level=0)
        thought_start = start if thinking else None
        return Constraint(
            matcher, self._words, self._stop_ids, thought_start, end, self._suppressed_ids
        )


class Constraint:
    """What may come next in one answer.

    A thought may stand before the answer where the model was asked to think; it is free, but the
    answer cannot end in it. A stop token may come when the JSON is whole, and nothing else may when
    it cannot go on.
    """

    def __init__(
        self,
        matcher: LLMatcher,
        words: LLTokenizer,
        stop_ids: list[int],
        thought_start: int | None,
        thought_end: int,
        suppressed_ids: frozenset[int] = frozenset(),
    ) -> None:
        """`Constraints.for_schema` creates them; no `thought_start` allows no thought."""
        self._matcher, self._words = matcher, words
        self._check()
        self._stops = torch.tensor(stop_ids)
        self._suppressed_ids = suppressed_ids
        self._thought_start, self._thought_end = thought_start, thought_end
        self._in_thought = False

    @property
    def is_over(self) -> bool:
        """Whether the JSON is whole and nothing but a stop token can follow."""
        return not self._in_thought and bool(self._matcher.is_stopped())

    def mask(self, logits: Tensor) -> Tensor:
        """`logits` [vocabulary] with minus infinity where a token would break the schema."""
        if self._in_thought:
            return logits.index_fill(0, _on_device(self._stops, logits.device), float("-inf"))
        # All that may come now, where only one text may; costs nothing, unlike the mask, for which
        # the library tokenizes the whole of it before every token
        forced = self._matcher.compute_ff_bytes()
        self._check()
        size = logits.shape[-1]
        if len(forced) > _FORCED_BYTES:
            bits = torch.zeros(-(-size // 8), dtype=torch.uint8)
            _put(bits, self._begin_of(forced), on=True)
        else:
            bits = self._allowed(size)
            self._spell_out(bits, forced)
        if self._thought_start is not None:
            _put(bits, self._thought_start, on=True)
        for token in self._suppressed_ids:
            _put(bits, token, on=False)
        if not bits.any():
            raise RqchatError(
                "the answer cannot be held to the schema: what has to come next is among the tokens"
                " that the model's generation_config.json suppresses; change one or the other"
            )
        return logits.masked_fill(~_unpacked(bits, size, logits.device), float("-inf"))

    def _allowed(self, size: int) -> Tensor:
        """What the library lets come next of `size` tokens, a bit each, the lowest first."""
        mask = self._matcher.compute_bitmask()
        self._check()
        bits = torch.frombuffer(bytearray(mask), dtype=torch.uint8)[: -(-size // 8)]
        if size % 8:  # bits that stand for no token
            bits[-1] &= (1 << size % 8) - 1
        return bits

    def _begin_of(self, text: bytes) -> int:
        """A token that `text`, which is long, begins with, and no control token."""
        token = self._words.tokenize_bytes(text[:_FORCED_BYTES])[0]
        return token if self._begins(text, token) else self._words.tokenize_bytes(text[:1])[0]

    def _begins(self, text: bytes, token: int) -> bool:
        if token in self._suppressed_ids or self._words.is_special_token(token):
            return False
        return text.startswith(self._words.decode_bytes([token]))

    def _spell_out(self, bits: Tensor, text: bytes) -> None:
        """Mends what may come next where the library lets the tokenizer choose the one token.

        It does where all that may come is one `text`; and of the text "<pad>" the tokenizer makes a
        control token, of "▁" a blank. Such a text is begun with its first byte.
        """
        places = bits.nonzero()
        value = int(bits[places[0]]) if len(places) == 1 else 0
        if not value or value & (value - 1):
            return
        token = int(places[0]) * 8 + value.bit_length() - 1
        if text and not self._begins(text, token):
            _put(bits, token, on=False)
            _put(bits, self._words.tokenize_bytes(text[:1])[0], on=True)

    def accept(self, token: int) -> None:
        """`token` was drawn."""
        if self._in_thought:
            self._in_thought = token != self._thought_end
            return
        if token == self._thought_start:
            self._in_thought = True
        else:
            self._matcher.consume_token(token)
            self._check()
        self._thought_start = None

    def _check(self) -> None:
        if self._matcher.is_error():
            reason = " ".join(self._matcher.get_error().partition("<")[0].split())
            raise RqchatError(
                f"the answer cannot be held to the schema ({reason}): no JSON can match it, or it"
                " is too large; make it simpler"
            )


def _no_words(cause: str) -> RqchatError:
    return RqchatError(f"the model's tokenizer cannot be held to a schema: {cause}")


def _on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`, without a wait for what runs there."""
    pinned = tensor.pin_memory() if device.type == "cuda" else tensor
    return pinned.to(device, non_blocking=True)


def _put(bits: Tensor, token: int, *, on: bool) -> None:
    if token // 8 < len(bits):
        bit = 1 << token % 8
        bits[token // 8] = int(bits[token // 8]) & ~bit | (bit if on else 0)


def _unpacked(bits: Tensor, size: int, device: torch.device) -> Tensor:
    """Bool [size] on `device`, where the bits are unpacked: an eighth is on its way."""
    near = _on_device(bits, device)
    shifts = torch.arange(8, dtype=torch.uint8, device=device)
    return (near[:, None] >> shifts & 1).flatten()[:size].bool()
