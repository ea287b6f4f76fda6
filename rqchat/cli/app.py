"""`rqchat`: the Typer application, and the one place where errors become exit codes.

    0 done or the reader of a pipe has gone, 1 failed, 2 wrong usage, 3 does not fit this GPU,
    4 input longer than the context, 130 interrupted, 129 and 143 ended by SIGHUP and SIGTERM

Only what `--help` and `--version` need is imported here; each command loads the rest itself.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import typer

from rqchat import __version__
from rqchat.cli import options
from rqchat.cli.commands import (
    ask_command,
    cache_command,
    config_command,
    doctor_command,
    models_command,
    plan_command,
    pull_command,
    replay_command,
    serve_command,
    sessions_command,
    verify_command,
)
from rqchat.cli.help_page import CommandsFirst
from rqchat.cli.hints import usage_message
from rqchat.engine.settings import let_segments_grow
from rqchat.errors import RqchatError, UsageError

__all__ = ["app", "command", "main", "show_bug"]

_INTERRUPTED = 130
_HELP_OPTIONS = ["-h", "--help"]
_NAMES_OF_FILES = ("FILE", "PATH", "FOLDER")  # in what the help calls a value

app = typer.Typer(
    name="rqchat",
    cls=CommandsFirst,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": _HELP_OPTIONS, "max_content_width": 100},
)
app.command("ask")(ask_command.ask)
app.add_typer(cache_command.app, name="cache")
app.command("serve")(serve_command.serve)
app.command("plan")(plan_command.plan)
app.command("pull")(pull_command.pull)
app.add_typer(models_command.app, name="models")
app.command("doctor")(doctor_command.doctor)
app.add_typer(sessions_command.app, name="sessions")
app.add_typer(config_command.app, name="config")
app.command("replay")(replay_command.replay)
app.command("verify")(verify_command.verify)
app.command("calibrate")(verify_command.calibrate)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rqchat {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
@options.accepts(options.CHAT, options.SESSION, options.ANSWER)
def chat(
    context: typer.Context,
    continue_: options.Continue = False,
    resume: options.Resume = None,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            help="Show the version and leave.",
        ),
    ] = False,
    *,
    given: options.GivenOptions,
) -> None:
    """Chat with Gemma 4 on your own GPU, with the longest context that fits it.

    Without a command, rqchat starts a chat; a document piped in is read first.

    [bold]rqchat[/bold]                                      chat
    [bold]rqchat ask --image cat.png "describe"[/bold]       one answer
    [bold]cat book.txt | rqchat ask "who tells it?"[/bold]   a document, then a question
    """
    del version
    command = context.invoked_subcommand
    if command is None:
        from rqchat.cli.chat.run import run_chat
        from rqchat.cli.store_access import resumed_conversation

        settings, sampling = given.settings(), given.sampling()
        saved = resumed_conversation(latest=continue_, reference=resume)
        chat_settings = given.chat_settings()
        if saved is not None and not given.has("system"):
            chat_settings = replace(chat_settings, system=None)  # its own
        run_chat(settings, chat_settings, sampling, saved)
    elif any(_on_command_line(context, name) for name in context.params):
        raise UsageError(f"options for {command!r} stand after it: rqchat {command} --option ...")


def _on_command_line(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def command() -> Any:
    """The command that `app` describes, without the `<bool>` that Typer's help shows at flags."""
    root: Any = typer.main.get_command(app)
    waiting = [root]
    while waiting:
        one = waiting.pop()
        waiting += getattr(one, "commands", {}).values()
        asks_help = one.get_help_option(typer.Context(one, help_option_names=_HELP_OPTIONS))
        for parameter in (*one.params, asks_help):
            if getattr(parameter, "is_flag", False):
                parameter.metavar = ""
            elif parameter.callback is None:
                parameter.callback = _checked_text
    return root


def _checked_text(context: typer.Context, parameter: Any, value: Any) -> Any:
    """Refuses bytes that are no text, but in names of files, which may hold them.

    Raises:
        UsageError: `value` holds some.
    """
    # pyrefly: ignore [implicit-any-type-argument]
    given = value if isinstance(value, list | tuple) else [value]
    if not any(name in (parameter.metavar or "") for name in _NAMES_OF_FILES):
        for text in given:
            if isinstance(text, str) and any("\ud800" <= letter <= "\udfff" for letter in text):
                name = max(parameter.opts, key=len)
                raise UsageError(
                    f"{name} is {text!r}: no valid UTF-8; check the terminal's encoding"
                )
    return value


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process with its exit code.

    Args:
        arguments: the words after the program's name; None takes them from `sys.argv`.

    Raises:
        SystemExit: always.
    """
    let_segments_grow()
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    _replace_closed_stderr()
    try:
        if sys.stdout is None:
            raise RqchatError("standard output is closed, so nothing can be answered")
        # Not standalone, so that Typer raises its errors here and does not leave by itself.
        code = command()(args=arguments, prog_name="rqchat", standalone_mode=False)
    except RqchatError as error:
        return _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _INTERRUPTED
    except SystemExit as left:
        # Typer's own end when the reader of a help text has gone
        if isinstance(left.__context__, BrokenPipeError):
            return 0
        raise
    except Exception as error:
        return _usage_or_bug(error)
    return code if isinstance(code, int) else 0


def _replace_closed_stderr() -> None:
    """Python has None for a standard error that was closed by whoever started the program."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _usage_or_bug(error: Exception) -> int:
    """Exit code of what Typer found wrong with the command line; any other error is a bug.

    Typer keeps the class of its usage errors private, so they are known by their two methods.
    """
    from rqchat.ui.console import ReaderGoneError

    if isinstance(error, ReaderGoneError):
        return 0
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return _fail(f"{error.filename or 'the output'} cannot be written: {error.strerror}", 1)
    if not hasattr(error, "format_message"):
        raise error
    return _fail(usage_message(error), getattr(error, "exit_code", 2))


def show_bug(error: Exception) -> None:
    """The traceback of an error that is nobody's fault but ours."""
    from rqchat.ui.console import Screen

    Screen().bug(error)


def _fail(message: str, exit_code: int) -> int:
    from rqchat.ui.console import Screen

    Screen().error(f"rqchat: {message}")
    return exit_code
