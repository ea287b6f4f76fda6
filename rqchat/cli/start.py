"""Where the process begins: Ctrl-C is as quiet while the rest is imported as it is later."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line.

    Raises:
        SystemExit: always, with the exit code.
    """
    try:
        from rqchat.cli import app

        app.main()
    except KeyboardInterrupt:
        sys.exit(130)
