"""`rqchat ask`: one question, one answer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rqchat.cli import opening, options

if TYPE_CHECKING:
    from rqchat.cli.opening import Session
    from rqchat.engine.conversation import UserTurn
    from rqchat.engine.events import Done
    from rqchat.engine.settings import SamplingSettings
    from rqchat.ui.console import Screen
    from rqchat.ui.stream import AnswerView

__all__ = ["ask"]


@options.taking(options.SESSION, options.ANSWER)
def ask(
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="[PROMPT]", help="The question; without it, standard input is the question."
        ),
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option("--image", "-i", metavar="FILE|URL", help="A picture; may be given again."),
    ] = None,
    file: Annotated[
        list[str] | None,
        typer.Option(
            "--file",
            "-f",
            metavar="FILE|URL",
            help="Text, source, PDF, HTML, or a folder of them; may be given again.",
        ),
    ] = None,
    clipboard: Annotated[
        bool,
        typer.Option(
            "--clipboard", metavar=options.NO_VALUE, help="The picture or text in the clipboard."
        ),
    ] = False,
    encoding: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of the documents, where it is not Unicode."),
    ] = None,
    system: options.System = None,
    think: options.Think = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", metavar=options.NO_VALUE, help="One JSON object on standard output."
        ),
    ] = False,
    stats: Annotated[
        bool,
        typer.Option(
            "--stats", metavar=options.NO_VALUE, help="Tokens, speed and memory on standard error."
        ),
    ] = False,
    quiet: options.Quiet = False,
    *,
    given: options.Given,
) -> None:
    """Answer one question about text, files and pictures.

    The answer goes to standard output, all else to standard error.
    Piped input is a document that is read before the question.
    '-' as a file or a picture is standard input.

    rqchat ask --image cat.png "What is in this picture?"

    cat book.txt | rqchat ask "Who is the narrator?"

    git diff | rqchat ask --json --temperature 0 "Write a commit message."
    """
    from rqchat.cli.inputs import Inputs, gather_turns
    from rqchat.ui.console import Screen
    from rqchat.ui.stream import AnswerView
    from rqchat.ui.tables import stats_table

    settings, sampling = given.settings(), given.sampling()
    screen = Screen(quiet=quiet)
    inputs = Inputs(
        prompt=prompt,
        images=image or (),
        files=file or (),
        clipboard=clipboard,
        encoding=encoding,
        offline=settings.offline,
    )
    (turn,) = gather_turns(inputs, screen)
    view = AnswerView(screen, echo=not as_json)
    try:
        screen.status("loading")
        session = opening.open_in_foreground(settings, system, view.show)
        session.thinking = think
        _show_chips(screen, turn, session.plan.image_tokens)
        done = _answer(session, turn, sampling, view)
    finally:
        view.close()
    if as_json:
        screen.answer(json.dumps(_record(view.text, session, done)) + "\n")
    if stats:
        screen.aside(stats_table(done))
    session.close()
    if done.stop_reason == "interrupted":
        raise typer.Exit(130)


def _show_chips(screen: Screen, turn: UserTurn, image_tokens: int) -> None:
    from rqchat.engine.images import soft_token_count
    from rqchat.ui.text import picture_chip

    for number, picture in enumerate(turn.pictures, 1):
        tokens = soft_token_count(picture.width, picture.height, image_tokens)
        screen.note(picture_chip(number, picture.width, picture.height, tokens))


def _answer(session: Session, turn: UserTurn, sampling: SamplingSettings, view: AnswerView) -> Done:
    from rqchat.engine.events import Done

    done: Done | None = None
    with opening.interruptible(session):
        for event in session.ask(turn, sampling):
            view.show(event)
            if isinstance(event, Done):
                done = event
    assert done is not None, "an answer ends with Done"
    return done


def _record(answer: str, session: Session, done: Done) -> dict[str, Any]:
    """The object of `--json`; its keys are a contract."""
    from dataclasses import asdict

    chosen = session.plan.chosen
    return {
        "answer": answer,
        "model": session.model_name,
        "weights": chosen.weights,
        "kv_bits": chosen.kv_bits,
        "context": session.context_tokens,
        "tokens": asdict(done.tokens),
        "timing": asdict(done.timing),
        "memory": asdict(done.memory),
        "stop_reason": done.stop_reason,
    }
