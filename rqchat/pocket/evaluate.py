"""Measure the pocket model through the real engine: `python -m rqchat.pocket.evaluate --json`.

Pictures and facts come from seeds that training never uses, the prose around the facts from
licences, which training never reads. An answer counts when it is right to the letter.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

from rqchat.engine.conversation import UserTurn
from rqchat.engine.documents import Document
from rqchat.engine.events import TextDelta
from rqchat.engine.images import Picture
from rqchat.engine.session import ChatSession
from rqchat.engine.settings import SamplingSettings, Settings
from rqchat.pocket.facts import sample_fact
from rqchat.pocket.pictures import questions
from rqchat.pocket.prose import held_out_prose
from rqchat.pocket.scenes import render, sample_scene

__all__ = ["Question", "Score", "evaluate", "fact_questions", "picture_questions"]

# Training draws from small seeds times a million; these lie far from them.
_HELD_OUT_SEED = 987_654_321_000
_GREEDY = SamplingSettings(temperature=0.0, max_tokens=96)


@dataclass(frozen=True, slots=True)
class Question:
    """A user turn and the answer that counts as right."""

    turn: UserTurn
    answer: str


@dataclass(frozen=True, slots=True)
class Score:
    """Right answers of one task under one KV setting."""

    task: str
    kv_bits: int
    right: int
    asked: int

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
        yield Question(turn, answer)


def picture_questions(count: int) -> Iterator[Question]:
    """Two questions about each of `count` unseen pictures, the first asking for all of it."""
    for index in range(count):
        rng = random.Random(_HELD_OUT_SEED + index)
        scene = sample_scene(rng)
        image = render(scene)
        picture = Picture(f"scene-{index}.png", image.width, image.height, image)
        pairs = questions(scene, rng)
        for question, answer in (pairs[0], rng.choice(pairs[1:])):
            yield Question(UserTurn(question, pictures=(picture,)), answer)


def evaluate(session: ChatSession, task: str, asked: Sequence[Question], kv_bits: int) -> Score:
    """Ask every question in a conversation of its own."""
    right = 0
    for question in asked:
        session.clear()
        events = session.ask(question.turn, _GREEDY)
        answer = "".join(event.text for event in events if isinstance(event, TextDelta))
        right += answer.strip() == question.answer
    return Score(task, kv_bits, right, len(asked))


def _token_counter(session: ChatSession) -> Callable[[str], int]:
    return lambda text: session.count_tokens(UserTurn(text))


def _passage(
    rng: random.Random, texts: Sequence[str], tokens: int, count_tokens: Callable[[str], int]
) -> str:
    passage = ""
    while (missing := tokens - count_tokens(passage)) > 0:
        text = rng.choice(texts)
        start = text.find(" ", rng.randrange(len(text) // 2)) + 1
        passage += text[start : start + max(200, missing * 3)] + "\n\n"
    return passage


def _hide(prose: str, sentences: list[tuple[float, str]]) -> str:
    for depth, sentence in sorted(sentences, reverse=True):
        place = prose.find(". ", int(depth * len(prose) * 0.98)) + 2
        prose = f"{prose[:place].rstrip()} {sentence} {prose[place:]}"
    return prose


def main() -> None:
    """Read the arguments, run the tasks, print a line per score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kv-bits", type=int, nargs="+", default=[16, 4])
    parser.add_argument("--lengths", type=int, nargs="*", default=[2000, 8000, 24000])
    parser.add_argument("--facts", type=int, default=100, help="questions per length")
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    for kv_bits in arguments.kv_bits:
        session = ChatSession.open(Settings(model=arguments.model, kv_bits=kv_bits))
        counter = _token_counter(session)
        tasks: list[tuple[str, list[Question]]] = [
            (f"facts at {n} tokens", list(fact_questions(n, arguments.facts, counter)))
            for n in arguments.lengths
        ]
        if arguments.pictures:
            tasks.append(("pictures", list(picture_questions(arguments.pictures))))
        for name, asked in tasks:
            score = evaluate(session, name, asked, kv_bits)
            record = asdict(score) | {"share": round(score.share, 4)}
            line = f"{name:24} {kv_bits:2} bits {score.share:6.1%}"
            sys.stdout.write((json.dumps(record) if arguments.json else line) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
