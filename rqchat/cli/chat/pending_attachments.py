"""What is attached to the next message of a chat."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from rqchat.engine.conversation import UserTurn
from rqchat.engine.inputs.documents import Document
from rqchat.engine.inputs.pictures import Picture, file_of_page, is_page_name, soft_token_count
from rqchat.engine.settings import DEFAULT_IMAGE_TOKENS
from rqchat.errors import UsageError
from rqchat.ui.text import format_count

if TYPE_CHECKING:
    from rqchat.engine.session_api import Session

__all__ = ["Attached", "PendingAttachments"]

_ALL = "all"


@dataclass(frozen=True, slots=True)
class Attached:
    """A picture, a document, or all of a folder.

    Attributes:
        name: what the user calls it, without the folders before it.
        items: what goes to the model.
        tokens: what that takes of the context.
    """

    name: str
    items: tuple[Picture | Document, ...]
    tokens: int

    @property
    def label(self) -> str:
        """`cat.png, 264 tokens`."""
        return f"{self.name}, {format_count(self.tokens)} tokens"


class PendingAttachments:
    """Pictures and documents that wait for the next message."""

    def __init__(self) -> None:
        self._attached: list[Attached] = []

    def __iter__(self) -> Iterator[Attached]:
        return iter(self._attached)

    @property
    def tokens(self) -> int:
        """What all of it takes of the context."""
        return sum(each.tokens for each in self._attached)

    def line(self) -> str:
        """`attached: 1 cat.png, 264 tokens | 2 notes.txt, 99 tokens`; empty without any."""
        labels = (f"{number} {each.label}" for number, each in enumerate(self._attached, 1))
        return f"attached: {' | '.join(labels)}" if self._attached else ""

    def add(self, item: Picture | Document, session: Session) -> str:
        """Attach `item`; returns its chip, such as `[Image 1: 640x480, 264 tokens]`.

        Raises:
            InputError: the model cannot use it; nothing is attached then.
        """
        before = self.turn("")
        self._append(Path(item.name).name or item.name, (item,), session)
        if isinstance(item, Picture):
            number = sum(len(m.pictures) for m in session.messages) + len(before.pictures) + 1
            chip = f"Image {number}: {item.width}x{item.height}"
        else:
            number = sum(len(m.documents) for m in session.messages) + len(before.documents) + 1
            chip = f"File {number}: {self._attached[-1].name}"
        return f"[{chip}, {format_count(self._attached[-1].tokens)} tokens]"

    def add_all(self, name: str, items: tuple[Picture | Document, ...], session: Session) -> str:
        """Attach what belongs together: one thing as `add` does, else under one chip, such as
        `[src: 12 files, 999 tokens]` or `[scan.pdf: 3 pages as pictures, 840 tokens]`.

        Raises:
            InputError: the model cannot use it; nothing is attached then.
        """
        if len(items) == 1:
            return self.add(items[0], session)
        pages = [each for each in items if isinstance(each, Picture) and is_page_name(each.name)]
        what = f"{format_count(len(items))} files"
        if pages and len(items) - len(pages) <= 1:  # of one PDF file, with its text or without
            text = "text and " if len(items) > len(pages) else ""
            what = f"{text}{format_count(len(pages))} pages as pictures"
        self._append(f"{name}: {what}", items, session)
        return f"[{self._attached[-1].label}]"

    def place_of(self, picture: Picture, session: Session) -> int:
        """Which picture of the conversation and of what waits has the same bytes; 0 if none."""
        sent = [each for message in session.messages for each in message.pictures]
        all_data = [each.data for each in (*sent, *self.turn("").pictures)]
        return all_data.index(picture.data) + 1 if picture.data in all_data else 0

    def remove(self, which: str) -> tuple[Attached, ...]:
        """Detach by number or name, all of it with `all`, or the only one with an empty `which`.

        Raises:
            UsageError: it means none of them, or several.
        """
        if not self._attached:
            raise UsageError("nothing is attached")
        if which == _ALL or (not which and len(self._attached) == 1):
            meant = list(self._attached)
        else:
            numbers = {str(number): each for number, each in enumerate(self._attached, 1)}
            named = [each for each in self._attached if each.name == which]
            meant = [numbers[which]] if which in numbers else named
        if len(meant) != 1 and which != _ALL:
            raise UsageError(f"which one? {self.line()}; or {_ALL}")
        # By identity: the same picture attached twice is detached once
        self._attached = [each for each in self._attached if not any(each is one for one in meant)]
        return tuple(meant)

    def turn(self, text: str) -> UserTurn:
        """`text` with all that is attached, which stays attached."""
        items = [item for each in self._attached for item in each.items]
        pictures = tuple(item for item in items if isinstance(item, Picture))
        documents = tuple(item for item in items if isinstance(item, Document))
        return UserTurn(text, pictures, documents)

    def put_back(self, turn: UserTurn, session: Session) -> None:
        """Attach what came with `turn` and nothing else."""
        self.clear()
        for of_file, together in groupby(turn.pictures, lambda picture: file_of_page(picture.name)):
            if of_file:
                self.add_all(of_file, tuple(together), session)
            else:
                for picture in together:
                    self.add(picture, session)
        for document in turn.documents:
            self.add(document, session)

    def clear(self) -> None:
        """Detach everything."""
        self._attached.clear()

    def _append(self, name: str, items: tuple[Picture | Document, ...], session: Session) -> None:
        tokens = 0
        for item in items:
            if isinstance(item, Picture):
                plan = session.plan  # of a server's model nobody says what it takes
                budget = plan.budget_of(item.wanted_tokens) if plan else DEFAULT_IMAGE_TOKENS
                tokens += soft_token_count(item.width, item.height, budget)
        documents = tuple(item for item in items if isinstance(item, Document))
        if documents:
            tokens += session.count_tokens(UserTurn("", documents=documents))
            tokens -= session.count_tokens(UserTurn(""))
        self._attached.append(Attached(name, items, tokens))
