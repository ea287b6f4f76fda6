"""Every error rqchat raises on purpose.

    RqchatError (exit 1)             something failed
    |-- UsageError (exit 2)          the command line or a slash command makes no sense
    |-- DoesNotFitError (exit 3)     no plan fits this GPU
    |-- ContextLengthError (exit 4)  the input is longer than the context; has both token counts
    |-- ModelError (exit 1)          a model folder or hub id cannot be used
    |-- InputError (exit 1)          a file, image or standard input cannot be used
    `-- StoreError (exit 1)          saved conversations cannot be read or written
        |-- StoreFullError (exit 1)  the disk has no room for them
        `-- DamagedStoreError (exit 1)  their file is not as SQLite or rqchat left it

`cli/app.py` turns them into one line on stderr and the exit code; anything else is a bug.
"""

from __future__ import annotations

import re

__all__ = [
    "ContextLengthError",
    "DamagedStoreError",
    "DoesNotFitError",
    "InputError",
    "ModelError",
    "RqchatError",
    "StoreError",
    "StoreFullError",
    "UsageError",
    "printable",
]


# C0 and C1 controls, line and paragraph separators, bidirectional controls, lone surrogates
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]+")


class RqchatError(Exception):
    """Base of all errors meant for the person at the prompt. `exit_code` is the process's.

    The message is one line that any screen, log and JSON reader can take: names of files and the
    words of foreign parsers, which are part of messages, may hold anything.
    """

    exit_code: int = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))


def printable(text: str) -> str:
    """`text` on one line that can be encoded and shown: a blank for each run of line breaks and
    tabs, U+FFFD for each run of other controls and of bytes that are no UTF-8."""
    return _UNPRINTABLE.sub(lambda found: " " if found[0].isspace() else "\ufffd", text)


class UsageError(RqchatError):
    """Wrong usage: an unknown option, a value out of range, a command with the wrong argument."""

    exit_code = 2


class DoesNotFitError(RqchatError):
    """No combination of weights and KV bits fits the device."""

    exit_code = 3


class ContextLengthError(RqchatError):
    """The input has more tokens than the context holds.

    Attributes:
        input_tokens: tokens of the whole rendered prompt.
        context_tokens: tokens that the planned context holds.
    """

    exit_code = 4

    def __init__(self, message: str, *, input_tokens: int, context_tokens: int) -> None:
        super().__init__(message)
        self.input_tokens = input_tokens
        self.context_tokens = context_tokens


class ModelError(RqchatError):
    """A model id, folder or file cannot be used."""


class InputError(RqchatError):
    """A document, image or standard input cannot be used."""


class StoreError(RqchatError):
    """The file of saved conversations cannot be read or written."""


class StoreFullError(StoreError):
    """The disk has no room for what was to be saved."""


class DamagedStoreError(StoreError):
    """The file of saved conversations, or a row of it, is not as it was written."""
