"""What is attached to the next message of a chat."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rqchat.engine.conversation import UserTurn
from rqchat.engine.inputs.documents import Document
from rqchat.engine.inputs.pictures import Picture, soft_token_count
from rqchat.ui.text import format_count

if TYPE_CHECKING:
    from rqchat.engine.session_api import Session

__all__ = ["PendingAttachments"]


class PendingAttachments:
    """Pictures and documents that wait for the next message."""

    def __init__(self) -> None:
        self._pictures: list[Picture] = []
        self._documents: list[Document] = []

    def add(self, item: Picture | Document, session: Session) -> str:
        """Attach `item`; returns its chip, such as `[Image 1: 640x480, 264 tokens]`.

        Raises:
            InputError: the model cannot use it; nothing is attached then.
        """
        if isinstance(item, Picture):
            tokens = soft_token_count(item.width, item.height, session.plan.image_tokens)
            self._pictures.append(item)
            number = sum(len(m.pictures) for m in session.messages) + len(self._pictures)
            chip = f"Image {number}: {item.width}x{item.height}"
        else:
            tokens = session.count_tokens(UserTurn("", documents=(item,)))
            tokens -= session.count_tokens(UserTurn(""))
            self._documents.append(item)
            number = sum(len(m.documents) for m in session.messages) + len(self._documents)
            chip = f"File {number}: {Path(item.name).name}"
        return f"[{chip}, {format_count(tokens)} tokens]"

    def add_folder(self, name: str, documents: tuple[Document, ...], session: Session) -> str:
        """Attach all of a folder; returns one chip for it, such as `[src: 12 files, 999 tokens]`.

        Raises:
            InputError: the model cannot use it; nothing is attached then.
        """
        tokens = session.count_tokens(UserTurn("", documents=documents))
        tokens -= session.count_tokens(UserTurn(""))
        self._documents += documents
        return f"[{name}: {format_count(len(documents))} files, {format_count(tokens)} tokens]"

    def turn(self, text: str) -> UserTurn:
        """`text` with all that is attached, which stays attached."""
        return UserTurn(text, tuple(self._pictures), tuple(self._documents))

    def put_back(self, turn: UserTurn) -> None:
        """Attach what came with `turn` and nothing else."""
        self._pictures = list(turn.pictures)
        self._documents = list(turn.documents)

    def clear(self) -> None:
        """Detach everything."""
        self._pictures.clear()
        self._documents.clear()
