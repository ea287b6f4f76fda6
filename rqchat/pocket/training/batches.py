"""Training batches: rows of one length, with the tokens to learn marked."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerFast

from rqchat.pocket.training.galleries import gallery_conversation
from rqchat.pocket.training.language.dialogues import (
    Prose,
    Turn,
    document_conversation,
    render,
    small_talk_conversation,
)
from rqchat.pocket.training.notes.notes import (
    document_of_notes,
    note_beside_picture,
    note_conversation,
    unknown_conversation,
)
from rqchat.pocket.training.vision.picture_questions import questions
from rqchat.pocket.training.vision.scenes import Scene

__all__ = ["Batch", "BatchMaker", "Row", "Steps", "encode_pieces"]

_STEPS = 1 << 40  # more than any run has
_NOTES_IN_PROSE = 0.5  # of the documents; the others hold facts of the older kind
_SHORT_SHARES = {"note": 0.77, "picture": 0.12, "talk": 0.05, "unknown": 0.06}
_WITHOUT_PICTURES = ("note", "talk", "unknown")
_LONG_SHARES = {"note": 0.3, "gallery": 0.6, "beside": 0.1}

Row = tuple[list[int], list[bool]]


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of conversations.

    Attributes:
        ids: [rows, tokens] int64.
        learned: [rows, tokens] bool: the token at this place is to be predicted.
        features: [soft tokens of all rows, hidden of the tower], or None without pictures.
        segments: [rows, tokens] int64, the conversation that a token belongs to where several
            share a row, -1 on padding; None where a row is one conversation.
    """

    ids: Tensor
    learned: Tensor
    features: Tensor | None = None
    segments: Tensor | None = None

    def to(self, device: str) -> Batch:
        """The same on `device`."""
        moved = [None if x is None else x.to(device) for x in (self.features, self.segments)]
        return Batch(self.ids.to(device), self.learned.to(device), *moved)


def encode_pieces(tokenizer: PreTrainedTokenizerFast, pieces: Sequence[tuple[str, bool]]) -> Row:
    """Token ids of a rendered conversation and which of them are learned."""
    ids: list[int] = []
    learned: list[bool] = []
    for text, learn in pieces:
        piece = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += piece
        learned += [learn] * len(piece)
    return ids, learned


def _image(soft_tokens: int) -> str:
    return "<|image>" + "<|image|>" * soft_tokens + "<image|>"


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
        self._seed = seed
        self._rng = random.Random(seed)

    def draw(self, step: int, mix: Sequence[tuple[str, int, float]]) -> tuple[str, Batch]:
        """The batch of a step and the name of its kind; it depends on the seed and the step alone.

        `mix` holds (kind, row length in tokens, weight), a kind being a method of this class.
        """
        # Fresh at every step, so that workers and resumed runs draw what one process would have.
        self._rng = random.Random(f"{self._seed}-{step}")
        kind, row_tokens, _ = self._rng.choices(mix, [weight for *_, weight in mix])[0]
        return f"{kind}{row_tokens}", getattr(self, kind)(row_tokens)

    def documents(self, row_tokens: int) -> Batch:
        """Documents with facts in them and questions about the facts."""
        return self._rows(row_tokens, lambda: self._document(row_tokens))

    def mixed(self, row_tokens: int) -> Batch:
        """Notes, talk and pictures, as many conversations to a row as it has room for."""
        drawn: list[tuple[Row, list[Tensor]]] = []
        room = self._tokens_per_batch
        while room > 0:
            row, features = self._short(row_tokens)
            if len(row[0]) <= row_tokens:
                drawn.append((row, features))
                room -= len(row[0])
        return self._packed(drawn, row_tokens)

    def _short(self, most: int) -> tuple[Row, list[Tensor]]:
        shares = _LONG_SHARES if most > 256 else _SHORT_SHARES
        if not self._scenes:
            shares = {kind: share for kind, share in shares.items() if kind in _WITHOUT_PICTURES}
        kind = self._rng.choices(list(shares), list(shares.values()))[0]
        count = self._rng.choice((1, 2, 2, 3) if most <= 128 else (1, 3, 4, 5, 6))
        encoded: list[Tensor] = []
        if kind == "picture":
            scene, _, soft = self._rng.choice(self._scenes)
            return self._picture(min(most, 192), scene, len(soft)), [soft]
        if kind == "gallery":
            drawn = self._rng.sample(list(self._scenes), self._rng.choice((2, 2, 3, 3, 4)))
            encoded = [soft for *_, soft in drawn]
            images = [_image(len(soft)) for soft in encoded]
            asked = gallery_conversation(self._rng, [scene for scene, *_ in drawn], images)
        elif kind == "beside":
            scene, _, soft = self._rng.choice(self._scenes)
            encoded = [soft]
            pairs = questions(scene, self._rng)
            asked = note_beside_picture(self._rng, self._prose, _image(len(soft)), pairs)
        elif kind == "talk":
            return self._small_talk(most), []
        elif kind == "unknown":
            asked = unknown_conversation(self._rng, self._prose)
        else:
            asked = note_conversation(self._rng, self._prose, self._parameters, turns=count)
        return encode_pieces(self._tokenizer, render(self._rng, "", asked)), encoded

    def _packed(self, drawn: Sequence[tuple[Row, list[Tensor]]], row_tokens: int) -> Batch:
        """First fit, longest first; what finds no room is left out, so that shapes never change."""
        rows: list[list[int]] = [[] for _ in range(max(1, self._tokens_per_batch // row_tokens))]
        free = [row_tokens] * len(rows)
        for index in sorted(range(len(drawn)), key=lambda i: -len(drawn[i][0][0])):
            size = len(drawn[index][0][0])
            place = next((i for i, left in enumerate(free) if left >= size), None)
            if place is not None:
                rows[place].append(index)
                free[place] -= size
        ids = torch.zeros(len(rows), row_tokens, dtype=torch.long)
        learned = torch.zeros(len(rows), row_tokens, dtype=torch.bool)
        segments = torch.full((len(rows), row_tokens), -1)
        features: list[Tensor] = []
        for number, members in enumerate(rows):
            start = 0
            for index in members:
                (row_ids, row_learned), own = drawn[index]
                end = start + len(row_ids)
                ids[number, start:end] = torch.tensor(row_ids)
                learned[number, start:end] = torch.tensor(row_learned)
                segments[number, start:end] = index
                features += own
                start = end
        return Batch(ids, learned, torch.cat(features).float() if features else None, segments)

    def _picture(self, row_tokens: int, scene: Scene, soft_tokens: int) -> Row:
        pairs = questions(scene, self._rng)
        count = self._rng.choice((1, 2, 3, 4))
        chosen = self._rng.sample(pairs, min(count, len(pairs)))
        if self._rng.random() < 0.5:
            chosen[0] = pairs[0]
        # A question less at a time until the row has room; one alone may be longer than asked for.
        while True:
            turns = [Turn(question, answer) for question, answer in chosen]
            row = encode_pieces(self._tokenizer, render(self._rng, "", turns, _image(soft_tokens)))
            if len(row[0]) <= row_tokens or len(chosen) == 1:
                return row
            chosen.pop()

    def _rows(self, row_tokens: int, draw: Callable[[], Row]) -> Batch:
        rows = max(1, self._tokens_per_batch // row_tokens)
        # Padding comes last, where the causal mask hides it: no segments are needed.
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
        # Tokens of a question with its answer and of a fact; a token of prose has 3.4 characters.
        room = row_tokens - 36 * turns - 18 * facts
        characters = max(40, int(room * 3.4 * self._rng.uniform(0.75, 1.05)))
        while True:
            make = (
                document_of_notes if self._rng.random() < _NOTES_IN_PROSE else document_conversation
            )
            document, asked = make(self._rng, self._prose, characters, facts, turns)
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


class Steps(Dataset[tuple[str, Batch]]):
    """The batches of all steps under one mix, for torch's `DataLoader`."""

    def __init__(self, maker: BatchMaker, mix: Sequence[tuple[str, int, float]]) -> None:
        self._maker, self._mix = maker, mix

    def __getitem__(self, index: int) -> tuple[str, Batch]:
        return self._maker.draw(index, self._mix)

    def from_step(self, step: int, workers: int) -> Iterable[tuple[str, Batch]]:
        """Those of `step` and later, in order, drawn ahead by `workers` processes."""
        steps = range(step, _STEPS)
        return DataLoader(self, batch_size=None, sampler=steps, num_workers=workers)
