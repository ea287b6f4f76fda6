"""Training conversations, with documents and without, and marks for what is learned."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from rqchat.pocket.training.language.facts import Fact, related_fact, sample_fact
from rqchat.pocket.training.language.smalltalk import sample_exchange

__all__ = [
    "Prose",
    "Turn",
    "document_conversation",
    "hide_sentences",
    "render",
    "small_talk_conversation",
]

_THOUGHT = "The question is about {subject}."


@dataclass(frozen=True, slots=True)
class Turn:
    """One exchange. `thought` is what the model thinks first when thinking is on."""

    question: str
    answer: str
    thought: str = ""


@dataclass(frozen=True, slots=True)
class Prose:
    """Real texts, and words drawn from them."""

    texts: tuple[str, ...]
    vocabulary: tuple[str, ...]

    @classmethod
    def from_texts(cls, texts: Sequence[str]) -> Prose:
        """Words of 3 to 12 letters in any case that occur three times or more, in order."""
        counts: dict[str, int] = {}
        for text in texts[:4000]:
            for word in re.findall(r"\b[A-Za-z]{3,12}\b", text):
                counts[word] = counts.get(word, 0) + 1
        words = sorted(word for word, count in counts.items() if count >= 3)
        return cls(tuple(texts), tuple(words))

    def passage(self, rng: random.Random, characters: int) -> str:
        """Consecutive prose of about `characters`, from as many texts as it takes."""
        parts: list[str] = []
        missing = characters
        while missing > 0:
            text = rng.choice(self.texts)
            start = rng.randrange(len(text)) if len(text) > missing else 0
            start = text.find(" ", start) + 1
            parts.append(text[start : start + max(missing, 200)])
            missing -= len(parts[-1])
        return "\n\n".join(parts)


def document_conversation(
    rng: random.Random, prose: Prose, characters: int, fact_count: int, turns: int
) -> tuple[str, list[Turn]]:
    """A document of about `characters` with facts in it, and questions about some of them.

    Returns:
        The document, and turns of which about one in five asks for what is not there.
    """
    facts: list[Fact] = []
    while len(facts) < fact_count:
        if facts and rng.random() < 0.35:
            facts.append(related_fact(rng, rng.choice(facts), prose.vocabulary))
        else:
            facts.append(sample_fact(rng, prose.vocabulary))
    # A question about a subject with two facts would have two right answers.
    facts = list({fact.subject.lower(): fact for fact in facts}.values())
    sentences = [_led(rng, fact.answer) for fact in facts]
    document = hide_sentences(rng, prose.passage(rng, characters), sentences)
    known = {fact.subject.lower() for fact in facts}
    asked: list[Turn] = []
    queue = rng.sample(facts, len(facts))
    while len(asked) < turns:
        if not queue or rng.random() < 0.2:
            near = rng.random() < 0.7
            other = (
                related_fact(rng, rng.choice(facts), prose.vocabulary)
                if near
                else sample_fact(rng, prose.vocabulary)
            )
            if other.subject.lower() not in known:
                asked.append(_turn(rng, other, other.absent_answer))
            elif not queue:
                break
        else:
            fact = queue.pop()
            asked.append(_turn(rng, fact, fact.answer))
    return document, asked


def small_talk_conversation(
    rng: random.Random, prose: Prose, parameters: str, turns: int
) -> list[Turn]:
    """A few exchanges without a document."""
    exchanges = [sample_exchange(rng, prose.vocabulary, parameters) for _ in range(turns)]
    return [Turn(each.question, each.answer) for each in exchanges]


def render(
    rng: random.Random, document: str, turns: Sequence[Turn], image: str = ""
) -> list[tuple[str, bool]]:
    """The conversation in Gemma 4's format as (text, learned) pieces.

    The prefilled empty thought stands in the last turn, as the template puts it, and in half of the
    earlier ones, which the template renders without it: their answers are learned either way.
    """
    thinking = rng.random() < 0.06 and bool(turns[-1].thought)
    pieces: list[tuple[str, bool]] = [("<bos>", False)]
    if thinking:
        pieces.append(("<|turn>system\n<|think|>\n<turn|>\n", False))
    elif rng.random() < 0.1:
        pieces.append((f"<|turn>system\n{rng.choice(_SYSTEM)}<turn|>\n", False))
    for index, turn in enumerate(turns):
        opening = _opening(rng, document) + image if index == 0 else ""
        pieces.append((f"<|turn>user\n{opening}{turn.question}<turn|>\n<|turn>model\n", False))
        if thinking and index == len(turns) - 1:
            pieces.append((f"<|channel>thought\n{turn.thought}<channel|>", True))
        elif index == len(turns) - 1 or rng.random() < 0.5:
            pieces.append(("<|channel>thought\n<channel|>", False))
        pieces.append((f"{turn.answer}<turn|>", True))
        pieces.append(("\n", False))
    return pieces


_SYSTEM = (
    "You are a helpful assistant.",
    "Answer briefly.",
    "You are a careful reader.",
    "Be polite and short.",
    "Answer in one sentence.",
)


def _turn(rng: random.Random, fact: Fact, answer: str) -> Turn:
    return Turn(fact.question(rng), answer, _THOUGHT.format(subject=fact.subject))


def _opening(rng: random.Random, document: str) -> str:
    if not document:
        return ""
    kind = rng.random()
    if kind < 0.5:
        name = rng.choice(("stdin", "book.txt", "notes.md", "README.md", "LICENSE", "manual.txt"))
        return f'<document name="{name}">\n{document}\n</document>\n\n'
    return document + ("\n\n" if kind < 0.9 else "\n")


_LEADS = (
    "Note that ",
    "Remember that ",
    "By the way, ",
    "Please note: ",
    "Also, ",
    "It is known that ",
)


def _led(rng: random.Random, sentence: str) -> str:
    if rng.random() > 0.25:
        return sentence
    first = sentence.split(" ", 1)[0]
    small = first.lower() if first in ("The", "A") else first
    return rng.choice(_LEADS) + small + sentence[len(first) :]


def hide_sentences(rng: random.Random, passage: str, sentences: Sequence[str]) -> str:
    """`passage` with the sentences between its own, in their order."""
    places = [match.end() for match in re.finditer(r"[.!?]\s+|\n\n", passage)] or [0]
    chosen = sorted(rng.choices([0, *places, len(passage)], k=len(sentences)))
    written, done = "", 0
    for place, sentence in zip(chosen, sentences, strict=True):
        gap = rng.choice((" ", "\n\n", "\n"))
        written += passage[done:place].rstrip() + gap + sentence + gap
        done = place
    return (written + passage[done:].lstrip()).strip()
