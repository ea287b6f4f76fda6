"""The key that a server asks for: from the environment, or from a file that its owner alone reads.

Never from the command line, which every user of the machine can read with `ps`.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from rqchat.engine.foreign import border
from rqchat.engine.remote.address import ServerAddress
from rqchat.errors import UsageError

__all__ = ["KEY_VARIABLE", "read_key"]

KEY_VARIABLE = "RQCHAT_API_KEY"
_OPENAI_VARIABLE, _OPENAI_HOST = "OPENAI_API_KEY", "api.openai.com"
_MAX_BYTES = 10_000


def read_key(address: ServerAddress, key_file: str | None) -> str:
    """The key for `address`, or an empty text where there is none.

    A file that is named comes before the environment. OPENAI_API_KEY goes to its own host alone: a
    server that somebody tries out must not learn it.

    Raises:
        UsageError: others can read the file, or it holds no key.
    """
    if key_file is not None:
        return _checked(_file_text(Path(key_file).expanduser()), str(key_file))
    if given := os.environ.get(KEY_VARIABLE):
        return _checked(given, KEY_VARIABLE)
    if address.host == _OPENAI_HOST and (given := os.environ.get(_OPENAI_VARIABLE)):
        return _checked(given, _OPENAI_VARIABLE)
    return ""


def _file_text(path: Path) -> str:
    def unread(cause: str) -> UsageError:
        return UsageError(f"--key-file {path} cannot be read: {cause}")

    with border(unread), path.open("rb") as file:
        # Of the file that is open: another one could take its place after a look at the name
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise UsageError(f"--key-file {path} is no file")
        if os.name == "posix" and about.st_mode & 0o077:
            raise UsageError(
                f"--key-file {path} can be read or written by others (mode"
                f" {stat.S_IMODE(about.st_mode):04o}); do: chmod 600 {path}"
            )
        return file.read(_MAX_BYTES).decode()


def _checked(text: str, source: str) -> str:
    """The key without the line end behind it; errors never quote it."""
    key = text.strip()
    if not key:
        raise UsageError(f"{source} is empty; it holds the key of a server, and nothing else")
    if not all("!" <= letter <= "~" for letter in key):
        raise UsageError(f"{source} holds blanks or other letters than a key has; check it")
    return key
