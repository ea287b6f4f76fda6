"""Held-out questions about notes: written by hand, drawn from fresh seeds, and strings to copy.

A file of notes has `## kind` lines, notes that end at their first question, and questions:

    ? Where is the spare key? = blue cabinet | cabinet     asked in a new conversation
    + And the passport? = -                                asked in the one before

`|` parts answers that are right, `&` what all must be in one; `-` stands for "not in the text", and
`yes` or `no` for an answer that begins so.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rqchat.engine.conversation import UserTurn
from rqchat.engine.inputs.documents import Document
from rqchat.errors import InputError
from rqchat.pocket.training.language.dialogues import Prose
from rqchat.pocket.training.notes.notes import note_conversation

__all__ = ["NoteQuestion", "Wanted", "copy_questions", "fresh_questions", "read_notes"]

_ABSENT = "not in the text"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What makes an answer right.

    Attributes:
        ways: one of these must hold, each of them strings that all stand in the answer, as whole
            words and in any case of letters.
        others: values that must not stand in it.
        exact: the answer itself, to the letter, instead of all that.
    """

    ways: tuple[tuple[str, ...], ...] = ()
    others: tuple[str, ...] = ()
    exact: str | None = None

    def accepts(self, answer: str) -> bool:
        """Whether `answer` is right."""
        if self.exact is not None:
            return answer.strip() == self.exact
        if self.ways == (("-",),):
            return _ABSENT in answer
        if _ABSENT in answer:
            return False
        if self.ways in ((("yes",),), (("no",),)):
            return bool(re.match(rf"{self.ways[0][0]}\b", answer.strip().lower()))
        if any(_stands_in(other, answer) for other in self.others):
            return False
        return any(all(_stands_in(part, answer) for part in way) for way in self.ways)


@dataclass(frozen=True, slots=True)
class NoteQuestion:
    """One question; `follows` goes on in the conversation before, otherwise a new one begins."""

    kind: str
    turn: UserTurn
    wanted: Wanted
    follows: bool = False


def _stands_in(value: str, answer: str) -> bool:
    return bool(re.search(rf"(?<!\w){re.escape(value.lower())}(?!\w)", answer.lower()))


def read_notes(path: Path) -> list[NoteQuestion]:
    """The questions of a file, each note as the document that a pipe makes of it.

    Raises:
        InputError: a line is no question though it begins like one.
    """
    found: list[NoteQuestion] = []
    kind = ""
    note: list[str] = []
    block: list[str] = []
    for number, line in enumerate([*path.read_text(encoding="utf-8").splitlines(), ""], 1):
        if line.startswith("## "):
            kind = line[3:]
        elif re.match(r"[?+] ", line):
            if " = " not in line:
                raise InputError(f"{path}:{number}: a question without ' = ' and its answer")
            block.append(line)
        elif block:
            found += _questions(kind, "\n".join(note), block)
            note, block = [], []
        if line.strip() and not line.startswith(("# ", "## ")) and not re.match(r"[?+] ", line):
            note.append(line)
    return found


def _questions(kind: str, note: str, block: list[str]) -> Iterator[NoteQuestion]:
    parsed = []
    for line in block:
        question, _, answers = line[2:].rpartition(" = ")
        ways = tuple(
            tuple(part.strip() for part in way.split(" & ")) for way in answers.split(" | ")
        )
        parsed.append((line[0] == "+", question, ways))
    values = {part for *_, ways in parsed for way in ways for part in way}
    values -= {"-", "yes", "no"}
    for follows, question, ways in parsed:
        own = [part.lower() for way in ways for part in way]
        # What contains a right answer, or is contained in one, cannot be called wrong.
        others = tuple(v for v in values if not any(v.lower() in x or x in v.lower() for x in own))
        documents = () if follows else (Document("stdin", note),)
        name = "not in the text" if ways == (("-",),) else kind
        yield NoteQuestion(
            name, UserTurn(question, documents=documents), Wanted(ways, others), follows
        )


def fresh_questions(seed: int, count: int, prose: Prose) -> Iterator[NoteQuestion]:
    """Notes of the generator with words and verbs that training never sees, right to the letter."""
    for index in range(count):
        rng = random.Random(seed + index)
        turns = note_conversation(rng, prose, "3 million", turns=1, held_out=True)
        for number, turn in enumerate(turns):
            absent = _ABSENT in turn.answer
            name = "fresh, not in the text" if absent else "fresh"
            yield NoteQuestion(name, UserTurn(turn.question), Wanted(exact=turn.answer), number > 0)


def copy_questions(seed: int, count: int, length: int) -> Iterator[NoteQuestion]:
    """Notes with a string of `length` characters of any printable kind."""
    rng = random.Random(seed + length)
    characters = string.ascii_letters + string.digits + "!#$%&()*+,-./:;=?@[]^_{}~"
    for _ in range(count):
        code = "x"
        # Marks at the ends could be taken for those of the sentence.
        while not (code[0] + code[-1]).isalnum() or len(code) != length:
            code = "".join(rng.choices(characters, k=length))
        thing = rng.choice(("gate", "server", "printer", "locker", "router", "shed", "account"))
        note = f"The code for the {thing} is {code}."
        turn = UserTurn(f"What is the code for the {thing}?", documents=(Document("stdin", note),))
        yield NoteQuestion(f"copy {length} characters", turn, Wanted(((code,),)))
