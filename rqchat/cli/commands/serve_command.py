"""`rqchat serve`: a model that is loaded once, for editors, agents and scripts."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Annotated

import typer

from rqchat.cli import open_session, options
from rqchat.errors import RqchatError, UsageError

__all__ = ["serve"]

_KEY_VARIABLE = "RQCHAT_API_KEY"
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


@options.accepts(options.SESSION)
def serve(
    host: Annotated[
        str,
        typer.Option(metavar="ADDRESS", help="Where to listen; beyond this machine with a key."),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="N", min=0, max=65535, help="0 takes a free one.")
    ] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="What clients have to send; better by the next one."),
    ] = None,
    api_key_file: Annotated[
        str | None,
        typer.Option(metavar="FILE", help=f"A file with the key; or {_KEY_VARIABLE} holds it."),
    ] = None,
    idle: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Leave after so long without a question, such as 30m."),
    ] = None,
    think: Annotated[
        bool, typer.Option("--think", help="Think first where a request does not say.")
    ] = False,
    *,
    given: options.GivenOptions,
) -> None:
    """Load a model once and let other programs ask it.

    It speaks OpenAI's chat completions; http://127.0.0.1:8000/v1 is the base URL to give.

    rqchat serve --idle 30m
    """
    from rqchat.cli.download_consent import with_consent
    from rqchat.ui.console import Screen
    from rqchat.ui.stream import AnswerView

    try:
        from rqchat.engine.serving.http_server import HttpServer, ServeSettings, open_port
    except ModuleNotFoundError as error:
        raise RqchatError(
            f"rqchat serve needs {error.name}, which is not installed: pip install 'rqchat[serve]'"
        ) from None
    screen = Screen()
    key = _key(api_key, api_key_file)
    wanted = ServeSettings(host, port, key, None if idle is None else _seconds(idle), think)
    listening = open_port(wanted)
    settings = with_consent(given.settings(), screen)
    view = AnswerView(screen, echo=False)
    session = open_session.open_in_foreground(settings, None, view.show)
    view.close()
    from rqchat.engine.planning.main_memory import main_memory_bytes
    from rqchat.engine.session import ChatSession

    assert isinstance(session, ChatSession), "a server answers with a model of its own"
    session.keep_conversations(main_memory_bytes()[1] // 4)
    url = f"http://{host}:{listening.getsockname()[1]}/v1"
    ready = (
        f"{session.model_name} with {session.context_tokens:,} tokens answers at {url}; Ctrl-C"
        " ends it"
    )
    HttpServer(session, [listening], wanted).run(lambda: screen.note(ready))


def _key(given: str | None, file: str | None) -> str:
    """The key, from where it is said to be.

    Raises:
        UsageError: the file cannot be read, or others can read it.
    """
    if given is not None and file is not None:
        raise UsageError("--api-key and --api-key-file say the same thing; take one of them")
    if file is None:
        key = given if given is not None else os.environ.get(_KEY_VARIABLE, "")
    else:
        path = Path(file).expanduser()
        try:
            readers = path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
            key = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--api-key-file {file} cannot be read: {error}") from None
        if readers:
            raise UsageError(f"--api-key-file {file} can be read by others: chmod 600 {file}")
    if (given is not None or file is not None) and not key.strip():
        raise UsageError("the key is empty; make one, such as with: openssl rand -hex 32")
    return key


def _seconds(text: str) -> float:
    """Seconds of 90, 90s, 30m, 2h or 1d.

    Raises:
        UsageError: it is none of them.
    """
    number = text.strip().rstrip("smhd")
    unit = text.strip()[len(number) :]
    try:
        seconds = float(number) * _UNITS[unit]
    except (ValueError, KeyError):
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UsageError(f"--idle is {text!r}; write a time such as 90s, 30m or 2h")
    return seconds
