"""Training batches: rows of one length, with the tokens to learn marked."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from rqchat.pocket.training.language.dialogues import (
    Prose,
    Turn,
    document_conversation,
    render,
    small_talk_conversation,
)
from rqchat.pocket.training.vision.picture_questions import questions
from rqchat.pocket.training.vision.scenes import Scene

__all__ = ["Batch", "BatchMaker", "Row", "encode_pieces"]

Row = tuple[list[int], list[bool]]


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of conversations.

    Attributes:
        ids: [rows, tokens] int64.
        learned: [rows, tokens] bool: the token at this place is to be predicted.
        features: [soft tokens of all rows, hidden of the tower], or None without pictures.
    """

    ids: Tensor
    learned: Tensor
    features: Tensor | None = None

    def to(self, device: str) -> Batch:
        """The same on `device`."""
        features = None if self.features is None else self.features.to(device)
        return Batch(self.ids.to(device), self.learned.to(device), features)


def encode_pieces(tokenizer: PreTrainedTokenizerFast, pieces: Sequence[tuple[str, bool]]) -> Row:
    """Token ids of a rendered conversation and which of them are learned."""
    ids: list[int] = []
    learned: list[bool] = []
    for text, learn in pieces:
        piece = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += piece
        learned += [learn] * len(piece)
    return ids, learned


class BatchMaker:
    """Draws batches of about `tokens_per_batch` tokens from the text world."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        prose: Prose,
        scenes: Sequence[tuple[Scene, object, Tensor]] = (),
        *,
        parameters: str,
        tokens_per_batch: int,
        seed: int,
    ) -> None:
        self._tokenizer = tokenizer
        self._prose = prose
        self._scenes = scenes
        self._parameters = parameters
        self._tokens_per_batch = tokens_per_batch
        self._rng = random.Random(seed)

    def documents(self, row_tokens: int) -> Batch:
        """Documents with facts in them and questions about the facts."""
        return self._rows(row_tokens, lambda: self._document(row_tokens))

    def small_talk(self, row_tokens: int) -> Batch:
        """Short conversations without a document."""
        return self._rows(row_tokens, lambda: self._small_talk(row_tokens))

    def pictures(self, row_tokens: int) -> Batch:
        """Encoded pictures and a few questions about each."""
        features: list[Tensor] = []

        def draw() -> Row:
            scene, _, encoded = self._rng.choice(self._scenes)
            features.append(encoded)
            return self._picture(row_tokens, scene, len(encoded))

        batch = self._rows(row_tokens, draw)
        return Batch(batch.ids, batch.learned, torch.cat(features).float())

    def _picture(self, row_tokens: int, scene: Scene, soft_tokens: int) -> Row:
        image = "<|image>" + "<|image|>" * soft_tokens + "<image|>"
        pairs = questions(scene, self._rng)
        count = self._rng.choice((1, 2, 3, 4))
        chosen = self._rng.sample(pairs, min(count, len(pairs)))
        if self._rng.random() < 0.5:
            chosen[0] = pairs[0]
        while True:
            turns = [Turn(question, answer) for question, answer in chosen]
            row = encode_pieces(self._tokenizer, render(self._rng, "", turns, image))
            if len(row[0]) <= row_tokens:
                return row
            chosen.pop()

    def _rows(self, row_tokens: int, draw: Callable[[], Row]) -> Batch:
        rows = max(1, self._tokens_per_batch // row_tokens)
        ids = torch.zeros(rows, row_tokens, dtype=torch.long)
        learned = torch.zeros(rows, row_tokens, dtype=torch.bool)
        for row in range(rows):
            row_ids, row_learned = draw()
            ids[row, : len(row_ids)] = torch.tensor(row_ids)
            learned[row, : len(row_ids)] = torch.tensor(row_learned)
        return Batch(ids, learned)

    def _document(self, row_tokens: int) -> Row:
        # Mostly as many questions as have room, for there is nothing to learn in between
        most = row_tokens // 60
        turns = min(self._rng.choice((1, 4, most, most, most)), 24)
        facts = self._rng.randint(max(1, turns - 1), turns + 3)
        room = row_tokens - 36 * turns - 18 * facts
        characters = max(40, int(room * 3.4 * self._rng.uniform(0.75, 1.05)))
        while True:
            document, asked = document_conversation(
                self._rng, self._prose, characters, facts, turns
            )
            pieces = render(self._rng, document, asked)
            ids, learned = encode_pieces(self._tokenizer, pieces)
            if len(ids) <= row_tokens:
                return ids, learned
            characters = int(characters * 0.8)

    def _small_talk(self, row_tokens: int) -> Row:
        while True:
            count = self._rng.choice((1, 1, 2, 3))
            turns = small_talk_conversation(self._rng, self._prose, self._parameters, count)
            ids, learned = encode_pieces(self._tokenizer, render(self._rng, "", turns))
            if len(ids) <= row_tokens:
                return ids, learned
