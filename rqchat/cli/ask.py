"""`rqchat ask`: one question, one answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from rqchat.cli import opening, options
from rqchat.errors import ContextLengthError, RqchatError, UsageError

if TYPE_CHECKING:
    from rqchat.cli.opening import Session
    from rqchat.cli.report import Report
    from rqchat.engine.conversation import UserTurn
    from rqchat.engine.events import Done, Event
    from rqchat.engine.settings import SamplingSettings
    from rqchat.engine.truncate import Place
    from rqchat.ui.console import Screen

__all__ = ["ask"]

_OUTPUT = "Output"
_ANSWER_ROOM_TOKENS = 1024  # what --truncate leaves for an answer without a limit of its own


@options.taking(options.SESSION, options.ANSWER)
def ask(
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="[PROMPT]", help="The question; without it, standard input is the question."
        ),
    ] = None,
    question: Annotated[
        list[str] | None,
        typer.Option(
            "--question",
            "-q",
            metavar="TEXT",
            help="One of several questions, answered as JSON Lines; documents are read once.",
        ),
    ] = None,
    questions: Annotated[
        str | None, typer.Option(metavar="FILE", help="More of them, one a line.")
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
    truncate: Annotated[
        str | None,
        typer.Option(
            metavar="WHERE",
            help="Cut documents that are too long, and say so: at their head, middle or tail.",
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", metavar=options.NO_VALUE, help="One JSON object.", rich_help_panel=_OUTPUT
        ),
    ] = False,
    as_events: Annotated[
        bool,
        typer.Option(
            "--jsonl",
            metavar=options.NO_VALUE,
            help="A JSON object for each event, as it happens.",
            rich_help_panel=_OUTPUT,
        ),
    ] = False,
    raw: Annotated[
        bool,
        typer.Option(
            "--raw",
            metavar=options.NO_VALUE,
            help="The model's text as it is, without a line end of ours.",
            rich_help_panel=_OUTPUT,
        ),
    ] = False,
    stats: Annotated[
        bool,
        typer.Option(
            "--stats",
            metavar=options.NO_VALUE,
            help="Tokens, speed and memory on standard error.",
            rich_help_panel=_OUTPUT,
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

    rqchat ask -f contract.pdf -q "Who signs?" -q "Until when?"
    """
    from rqchat.cli.inputs import Inputs, gather_turns
    from rqchat.cli.report import Output, Report, choose_form
    from rqchat.ui.console import Screen

    settings, sampling = given.settings(), given.sampling()
    inputs = Inputs(
        prompt=prompt,
        questions=question or (),
        questions_file=questions,
        images=image or (),
        files=file or (),
        clipboard=clipboard,
        encoding=encoding,
        offline=settings.offline,
    )
    several = inputs.has_several
    form = choose_form(raw=raw, as_json=as_json, as_events=as_events, several=several)
    place = _place(truncate)
    screen = Screen(quiet=quiet)
    turns = gather_turns(inputs, screen)
    report = Report(screen, Output(form=form, stats=stats, several=several))
    try:
        screen.status("loading")
        session = opening.open_in_foreground(settings, system, report.show)
        session.thinking = think
        _show_chips(screen, turns[0], session.plan.image_tokens)
        turns, dropped_tokens = _fit(session, turns, place, sampling.max_tokens, screen)
        _answer_all(session, turns, sampling, report, dropped_tokens)
    except RqchatError as error:
        report.close()
        report.fail(error)
        raise
    finally:
        report.close()


def _place(name: str | None) -> Place | None:
    from rqchat.engine.truncate import PLACES

    for place in PLACES:
        if name == place:
            return place
    if name is not None:
        raise UsageError(f"--truncate is {name!r}; allowed are {', '.join(PLACES)}")
    return None


def _show_chips(screen: Screen, turn: UserTurn, image_tokens: int) -> None:
    from rqchat.engine.images import soft_token_count
    from rqchat.ui.text import picture_chip

    for number, picture in enumerate(turn.pictures, 1):
        tokens = soft_token_count(picture.width, picture.height, image_tokens)
        screen.note(picture_chip(number, picture.width, picture.height, tokens))


def _fit(
    session: Session,
    turns: tuple[UserTurn, ...],
    place: Place | None,
    answer_tokens: int | None,
    screen: Screen,
) -> tuple[tuple[UserTurn, ...], int | None]:
    """The turns, their documents cut where that was asked for, and the tokens that this drops.

    All turns have the same documents, so the longest of them decides.
    """
    from dataclasses import replace

    from rqchat.engine.truncate import cut_documents

    if place is None:
        return turns, None
    context = session.context_tokens
    limit = context - min(answer_tokens or _ANSWER_ROOM_TOKENS, context // 4)
    longest = max(turns, key=session.count_tokens)
    cut = cut_documents(longest, limit, place, session.count_tokens)
    if cut.dropped_tokens:
        screen.warning(
            f"left out {cut.dropped_tokens:,} of {cut.whole_tokens:,} tokens at the {place} of"
            f" the documents, as --truncate {place} asks"
        )
    documents = cut.turn.documents
    return tuple(replace(turn, documents=documents) for turn in turns), cut.dropped_tokens


def _answer_all(
    session: Session,
    turns: tuple[UserTurn, ...],
    sampling: SamplingSettings,
    report: Report,
    dropped_tokens: int | None,
) -> None:
    """Answers every turn on its own; what they begin with is read once."""
    if len(turns) > 1:
        # The longest one first, for its length alone: nothing is answered if that is too long
        _ask(session, max(turns, key=session.count_tokens), sampling)
    before = session.messages
    for turn in turns:
        session.restore(before)
        done = _answer(session, turn, sampling, report)
        report.finish(session, turn.text, done, dropped_tokens)
        if done.stop_reason == "interrupted":
            break
    session.close()
    if done.stop_reason == "interrupted":
        raise typer.Exit(130)


def _answer(session: Session, turn: UserTurn, sampling: SamplingSettings, report: Report) -> Done:
    from rqchat.engine.events import Done

    done: Done | None = None
    with opening.interruptible(session):
        for event in _ask(session, turn, sampling):
            report.show(event)
            if isinstance(event, Done):
                done = event
    assert done is not None, "an answer ends with Done"
    return done


def _ask(session: Session, turn: UserTurn, sampling: SamplingSettings) -> Iterator[Event]:
    try:
        return session.ask(turn, sampling)
    except ContextLengthError as error:
        if not turn.documents:
            raise
        raise ContextLengthError(
            f"{error}, or let documents be cut with --truncate middle",
            input_tokens=error.input_tokens,
            context_tokens=error.context_tokens,
        ) from None
