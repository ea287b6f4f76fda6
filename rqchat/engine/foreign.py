"""The border to the parsers of others: what one of them raises becomes a sentence of ours.

Files come from strangers, and no parser names all that a damaged or hostile file makes it raise:
the `tokenizers` library raises plain `Exception`, templates divide by zero, JSON runs out of stack.
So a border catches everything, and whoever asks through it says what was read and what to do next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rqchat.errors import RqchatError

__all__ = ["border", "cause_of"]

_CAUSE_CHARACTERS = 200
# Their messages say enough; those of others, such as a KeyError's, need the name of the error
_SPEAKING = (OSError, ValueError, RuntimeError)
# A panic of a library in Rust is none of `Exception`; these three are the reader's own wish
_ENDS = (KeyboardInterrupt, SystemExit, GeneratorExit)


@contextmanager
def border(
    refusal: Callable[[str], RqchatError], *, passing: tuple[type[BaseException], ...] = ()
) -> Iterator[None]:
    """Whatever is raised within becomes what `refusal` makes of its cause.

    Args:
        refusal: gets the cause in a few words; its error says what was read, and what to do.
        passing: what goes through as it is, besides our own errors.

    Raises:
        RqchatError: `refusal`'s, or one of ours that was raised within.
    """
    through: tuple[type[BaseException], ...] = (RqchatError, *_ENDS, *passing)
    try:
        yield
    except through:
        raise
    except BaseException as error:
        raise refusal(cause_of(error)) from None


def cause_of(error: BaseException) -> str:
    """One line that says why, without control characters, of at most 200 characters."""
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    if isinstance(error, MemoryError):
        return "it takes more memory than there is"
    if isinstance(error, ValueError) and "integer string conversion" in str(error):
        return "it holds a number with thousands of digits"
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    words = "".join(c if c.isprintable() else " " for c in said[: 2 * _CAUSE_CHARACTERS]).split()
    speaks = type(error) is Exception or isinstance(error, _SPEAKING)
    kind = "" if words and speaks else type(error).__name__
    line = ": ".join(filter(None, (kind, " ".join(words))))
    return line if len(line) <= _CAUSE_CHARACTERS else line[: _CAUSE_CHARACTERS - 3] + "..."
