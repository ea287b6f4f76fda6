"""What came with a turn: documents and pictures, kept once by their content, and loaded again.

The text of a document is kept whole, so that a conversation goes on after the file has changed or
gone; no document is larger than a context, which bounds it. Of a picture the file itself is kept,
as it was read: the pixels are then the same to the bit.
"""

from __future__ import annotations

import hashlib
import io
import sqlite3
import zlib

from rqchat.engine.conversation import UserTurn
from rqchat.engine.conversations.database import Database, plain
from rqchat.engine.conversations.records import Attachment, TurnRecord
from rqchat.engine.foreign import border
from rqchat.engine.inputs.documents import Document
from rqchat.engine.inputs.pictures import Picture, decode_picture
from rqchat.errors import DamagedStoreError

__all__ = ["attached_names", "content_of", "keep_attachments", "load_turn"]


def attached_names(turn: UserTurn) -> str:
    """Names of what came with `turn`, one a line, for search."""
    return "\n".join(plain(item.name) for item in _items(turn))


def keep_attachments(connection: sqlite3.Connection, turn_id: int, turn: UserTurn) -> None:
    """Adds what came with `turn`, within the caller's transaction."""
    for position, item in enumerate(_items(turn)):
        content = content_of(item)
        digest = hashlib.sha256(content).hexdigest()
        is_document = isinstance(item, Document)
        known = connection.execute("SELECT 1 FROM contents WHERE hash = ?", (digest,)).fetchone()
        if not known:
            # Files of pictures are compressed already.
            data = zlib.compress(content, 1) if is_document else content
            connection.execute("INSERT INTO contents VALUES (?, ?)", (digest, data))
        kind = "document" if is_document else "picture"
        connection.execute(
            "INSERT INTO attachments VALUES (?, ?, ?, ?, ?, ?)",
            (turn_id, position, kind, plain(item.name), digest, len(content)),
        )


def content_of(item: Document | Picture) -> bytes:
    """What is kept, and hashed, of a document or picture."""
    if isinstance(item, Document):
        return item.text.encode("utf-8", "replace")
    if item.data:
        return item.data
    # A picture that was made in memory has no file.
    png = io.BytesIO()
    item.image.save(png, "PNG", compress_level=1)
    return png.getvalue()


def load_turn(database: Database, record: TurnRecord) -> UserTurn:
    """The question of `record` with what came with it.

    Raises:
        DamagedStoreError: it is not what was saved.
    """
    pictures: list[Picture] = []
    documents: list[Document] = []
    for item in record.attachments:
        data = _load(database, item)
        if item.kind == "document":
            documents.append(Document(item.name, data.decode()))
        else:
            # 0.1 took and kept whatever pillow reads
            pictures.append(decode_picture(data, item.name, formats=None))
    return UserTurn(record.question, tuple(pictures), tuple(documents))


def _items(turn: UserTurn) -> tuple[Document | Picture, ...]:
    return (*turn.documents, *turn.pictures)


def _load(database: Database, item: Attachment) -> bytes:
    with database.read() as connection:
        row = connection.execute(
            "SELECT data FROM contents WHERE hash = ?", (item.hash,)
        ).fetchone()
    data: bytes = row[0] if row else b""
    with border(lambda cause: DamagedStoreError(f"{item.name} is not as it was saved: {cause}")):
        content = zlib.decompress(data) if item.kind == "document" else data
        if hashlib.sha256(content).hexdigest() != item.hash:
            raise ValueError("its bytes are others")
    return content
