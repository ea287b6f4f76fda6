"""Writes documents with many questions each: `python -m rqchat.pocket.training.probes`.

Text for `python -m rotorquant.bench fidelity` and for a calibration, in the format of the template:
unseen prose (licences) with facts in it, then questions and right answers. Most answers lie far
enough behind the document to read it from packed pages. Seeds keep texts apart.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

from rqchat.pocket.training.language.dialogues import Prose, document_conversation, render
from rqchat.pocket.training.language.prose import held_out_prose

__all__ = ["conversation_text", "main"]

_UNSEEN_SEED = 555_000_000_000  # training draws from small seeds times a million
_CHARACTERS_PER_TOKEN = 3.3


def conversation_text(seed: int, index: int, tokens: int, turns: int) -> str:
    """A document of about `tokens` with facts in it, and `turns` questions with their answers."""
    rng = random.Random(_UNSEEN_SEED + seed * 1_000_000 + index)
    prose = Prose.from_texts([text for _, text in held_out_prose()])
    characters = int(tokens * _CHARACTERS_PER_TOKEN)
    document, asked = document_conversation(rng, prose, characters, turns, turns)
    return "".join(text for text, _ in render(rng, document, asked))


def main() -> None:
    """Read the arguments and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=1500, help="about that many in a document")
    parser.add_argument("--questions", type=int, default=14, help="about each document")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    texts = [
        conversation_text(given.seed, index, given.tokens, given.questions)
        for index in range(given.documents)
    ]
    given.out.write_text("".join(texts), encoding="utf-8")
    sys.stdout.write(f"{len(texts)} documents in {given.out}\n")


if __name__ == "__main__":
    main()
