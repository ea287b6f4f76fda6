"""The entry point of `rqchat` and `python -m rqchat`: runs the command line, then ends fast.

The command line is imported within the `try`, so that Ctrl-C during the imports is quiet too.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

__all__ = ["main"]


def main() -> NoReturn:
    """Run the command line and end the process with its exit code."""
    code: int | str | None
    try:
        from rqchat.cli import app

        try:
            app.main()
        except Exception as error:
            app.show_bug(error)  # its words may be a model's, and a terminal would act on them
            code = 1
    except KeyboardInterrupt:
        code = 130
    except SystemExit as left:
        code = left.code
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, BrokenPipeError, ValueError):
            continue  # closed, or its reader has gone
        except OSError:
            code = code or 1
    # Everything is written and closed; a normal exit would spend a second taking torch apart
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    main()
