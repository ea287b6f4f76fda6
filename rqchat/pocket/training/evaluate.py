"""Measures the pocket model: `python -m rqchat.pocket.training.evaluate --json`.

It asks through the real engine. Pictures and facts come from seeds that training never uses, the
prose around the facts from licences, which training never reads; their answers count when they are
right to the letter. Notes by hand (`--notes tests/pocket/everyday_notes.txt`) count when the answer
holds the value and none of the note's others. With `--methods` the cache is one of those of
`python -m rotorquant.bench fidelity`.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rotorquant import Calibration, RotorQuantCache
from rotorquant.fidelity.methods import Method, methods
from rqchat.engine.conversation import UserTurn
from rqchat.engine.events import Done, TextDelta
from rqchat.engine.generation.cached_prefix import CachedPrefix
from rqchat.engine.inputs.documents import Document
from rqchat.engine.inputs.pictures import Picture
from rqchat.engine.session import ChatSession
from rqchat.engine.settings import SamplingSettings, Settings
from rqchat.pocket.training.language.dialogues import Prose
from rqchat.pocket.training.language.facts import sample_fact
from rqchat.pocket.training.language.prose import held_out_prose
from rqchat.pocket.training.notes.asking import (
    NoteQuestion,
    Wanted,
    copy_questions,
    fresh_questions,
    read_notes,
)
from rqchat.pocket.training.vision.painting import render
from rqchat.pocket.training.vision.picture_questions import questions
from rqchat.pocket.training.vision.scene_sampling import sample_scene

__all__ = ["Question", "Score", "evaluate", "fact_questions", "picture_questions"]

# Training draws from small seeds times a million; these lie far from them.
_HELD_OUT_SEED = 987_654_321_000
_LONGEST_ANSWER_TOKENS = 120
_GREEDY = SamplingSettings(temperature=0.0, max_tokens=_LONGEST_ANSWER_TOKENS)
# A prompt with one picture is shorter than the usual exact window of 576 tokens.
_SMALL_SINK, _SMALL_RECENT, _SMALL_PAGE = 4, 16, 8
_PARTS = 3  # of a document, in which the place of a fact is counted


@dataclass(frozen=True, slots=True)
class Question:
    """A user turn and the answers that count as right.

    Attributes:
        depth: where in the document the answer stands, from 0 to 1; None where it is not there.
        lead: what is asked first in the same conversation.
    """

    turn: UserTurn
    wanted: Wanted
    depth: float | None = None
    lead: tuple[UserTurn, ...] = ()


@dataclass(frozen=True, slots=True)
class Score:
    """Right answers of one task under one KV setting.

    Attributes:
        task, method, kv_bits: which.
        right, asked: of all questions.
        parts: the same two of the facts in each third of the document, first to last.
        packed_tokens: in the cache after the last answer.
        endless: answers that had to be cut off.
    """

    task: str
    method: str
    kv_bits: int
    right: int
    asked: int
    parts: tuple[tuple[int, int], ...]
    packed_tokens: int
    endless: int

    @property
    def share(self) -> float:
        """Right answers over all."""
        return self.right / self.asked


def fact_questions(
    tokens: int, count: int, count_tokens: Callable[[str], int]
) -> Iterator[Question]:
    """Questions over `tokens` of unseen prose that holds three facts, one in five about none.

    Depths are even over the document; names of the facts mix common words with the prose's.
    """
    rng = random.Random(_HELD_OUT_SEED + tokens)
    texts = [text for _, text in held_out_prose()]
    words = sorted({w for text in texts for w in text.split() if w.isalpha() and 3 <= len(w) <= 10})
    for index in range(count):
        facts = [sample_fact(rng, words) for _ in range(3)]
        prose = _passage(rng, texts, tokens, count_tokens)
        depths = [(index + 0.5) / count, rng.random(), rng.random()]
        document = _hide(prose, list(zip(depths, (fact.answer for fact in facts), strict=True)))
        absent = rng.random() < 0.2
        fact = sample_fact(rng, words) if absent else facts[0]
        answer = fact.absent_answer if absent else fact.answer
        turn = UserTurn(fact.question(rng), documents=(Document("LICENSE", document),))
        yield Question(turn, Wanted(exact=answer), None if absent else depths[0])


def picture_questions(count: int) -> Iterator[Question]:
    """Two questions about each of `count` unseen pictures, the first asking for all of it."""
    for index in range(count):
        rng = random.Random(_HELD_OUT_SEED + index)
        scene = sample_scene(rng)
        image = render(scene)
        picture = Picture(f"scene-{index}.png", image.width, image.height, image)
        pairs = questions(scene, rng)
        for question, answer in (pairs[0], rng.choice(pairs[1:])):
            yield Question(UserTurn(question, pictures=(picture,)), Wanted(exact=answer))


class MeasuredSession(ChatSession):
    """A session whose cache can be exchanged for one of another kind."""

    def use(self, method: Method, *, small_window: bool) -> None:
        """Go on with an empty cache of this kind, with an exact window of 16 tokens if small."""
        config = method.config
        if small_window:
            config = replace(
                config,
                sink_tokens=_SMALL_SINK,
                recent_tokens=_SMALL_RECENT,
                page_tokens=_SMALL_PAGE,
            )
        path = self._loaded.calibration if method.known == "all" else None
        known = None if path is None else Calibration.load(path)
        cache = RotorQuantCache.from_config(self._loaded.model, config, known)
        self._prefix = CachedPrefix(cache, 1)
        self.clear()

    @property
    def packed_tokens(self) -> int:
        """Tokens in the cache that are packed."""
        return int(self._prefix.cache.packed_tokens)


def evaluate(
    session: MeasuredSession, task: str, asked: Sequence[Question], method: str, kv_bits: int
) -> Score:
    """Ask every question in a conversation of its own."""
    right = endless = 0
    parts = [[0, 0] for _ in range(_PARTS)]
    for question in asked:
        session.clear()
        for turn in question.lead:
            list(session.ask(turn, _GREEDY))
        answer = ""
        for event in session.ask(question.turn, _GREEDY):
            if isinstance(event, TextDelta):
                answer += event.text
            elif isinstance(event, Done):
                endless += event.tokens.output >= _LONGEST_ANSWER_TOKENS
        found = question.wanted.accepts(answer)
        right += found
        if question.depth is not None:
            part = parts[min(int(question.depth * _PARTS), _PARTS - 1)]
            part[0] += found
            part[1] += 1
    counts = tuple((part[0], part[1]) for part in parts)
    return Score(task, method, kv_bits, right, len(asked), counts, session.packed_tokens, endless)


def _token_counter(session: ChatSession) -> Callable[[str], int]:
    return lambda text: session.count_tokens(UserTurn(text))


def _passage(
    rng: random.Random, texts: Sequence[str], tokens: int, count_tokens: Callable[[str], int]
) -> str:
    passage = ""
    while (missing := tokens - count_tokens(passage)) > 0:
        text = rng.choice(texts)
        start = text.find(" ", rng.randrange(len(text) // 2)) + 1
        # Three characters are fewer than a token has, so this comes near `tokens` from below.
        passage += text[start : start + max(200, missing * 3)] + "\n\n"
    return passage


def _hide(prose: str, sentences: list[tuple[float, str]]) -> str:
    # The last first, so that what is put in does not push the places that are still to come.
    for depth, sentence in sorted(sentences, reverse=True):
        # 0.98: a sentence has to end behind the place, even behind the deepest one.
        place = prose.find(". ", int(depth * len(prose) * 0.98)) + 2
        prose = f"{prose[:place].rstrip()} {sentence} {prose[place:]}"
    return prose


def main() -> None:
    """Read the arguments, run the tasks, print a line per score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kv-bits", type=int, nargs="+", default=[16, 4])
    parser.add_argument("--methods", nargs="+", help="as the fidelity bench names them")
    parser.add_argument("--small-window", action="store_true", help="16 exact tokens, with methods")
    parser.add_argument("--lengths", type=int, nargs="*", default=[2000, 8000, 24000])
    parser.add_argument("--facts", type=int, default=100, help="questions per length")
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--notes", type=Path, help="file of notes with questions and answers")
    parser.add_argument("--fresh", type=int, default=0, help="notes drawn with unseen words")
    parser.add_argument("--copies", type=int, default=0, help="strings to copy, of each length")
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    for session, name, kv_bits in _sessions(given):
        for task, asked in _tasks(given, _token_counter(session)):
            score = evaluate(session, task, asked, name, kv_bits)
            record = asdict(score) | {"share": round(score.share, 4)}
            line = f"{task:24} {name:16} {kv_bits:2} bits {score.right:4} of {score.asked:4}"
            line += f" {score.share:6.1%}  {score.endless} endless  {score.parts}"
            sys.stdout.write((json.dumps(record) if given.json else line) + "\n")
            sys.stdout.flush()


def _sessions(given: argparse.Namespace) -> Iterator[tuple[MeasuredSession, str, int]]:
    """A session for every setting that is asked for, with its name and bits."""
    if not given.methods:
        for kv_bits in given.kv_bits:
            yield MeasuredSession.open(Settings(given.model, kv_bits=kv_bits)), "", kv_bits
        return
    # One model for all methods: `use` exchanges the cache alone.
    session = MeasuredSession.open(Settings(given.model))
    for method in methods(given.kv_bits):
        if method.name in given.methods and method.bits in given.kv_bits:
            session.use(method, small_window=given.small_window)
            yield session, method.name, method.bits


def _tasks(
    given: argparse.Namespace, counter: Callable[[str], int]
) -> Iterator[tuple[str, list[Question]]]:
    notes: list[NoteQuestion] = []
    if given.notes:
        notes += read_notes(given.notes)
    if given.fresh:
        prose = Prose.from_texts([text for _, text in held_out_prose()])
        notes += fresh_questions(_HELD_OUT_SEED, given.fresh, prose)
    for length in (12, 40) if given.copies else ():
        notes += copy_questions(_HELD_OUT_SEED, given.copies, length)
    yield from _by_kind(notes)
    for tokens in given.lengths:
        yield f"facts at {tokens} tokens", list(fact_questions(tokens, given.facts, counter))
    if given.pictures:
        yield "pictures", list(picture_questions(given.pictures))


def _by_kind(notes: Sequence[NoteQuestion]) -> Iterator[tuple[str, list[Question]]]:
    """Questions by kind; one that follows is asked after those before it, whatever their kind."""
    kinds: dict[str, list[Question]] = {}
    before: list[UserTurn] = []
    for note in notes:
        before = [*before, note.turn] if note.follows else [note.turn]
        question = Question(note.turn, note.wanted, lead=tuple(before[:-1]))
        kinds.setdefault(note.kind, []).append(question)
    yield from kinds.items()


if __name__ == "__main__":
    main()
