"""`rqchat ask`: one question, one answer."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

from rqchat.cli import open_session, options
from rqchat.engine.settings import DEFAULT_IMAGE_TOKENS
from rqchat.errors import RqchatError, UsageError

if TYPE_CHECKING:
    from rqchat.engine.conversation import UserTurn
    from rqchat.engine.generation.truncate import Place
    from rqchat.engine.planning.plan import MemoryPlan
    from rqchat.ui.console import Screen

__all__ = ["ask"]

_OUTPUT = "Output"
_SCHEMA_TOKENS = 4096  # a string without maxLength may go on until the context ends


@options.accepts(options.CHAT, options.SESSION, options.ANSWER)
def ask(
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT", help="The question; without it, standard input is the question."
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
            help="Text, PDF, HTML, a picture, or a folder of them; may be given again.",
        ),
    ] = None,
    clipboard: Annotated[
        bool,
        typer.Option("--clipboard", help="The picture or text in the clipboard."),
    ] = False,
    encoding: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of the documents, where it is not Unicode."),
    ] = None,
    pages: options.Pages = None,
    schema: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|JSON",
            help="A JSON schema; the answer is JSON that matches it, of at most"
            f" {_SCHEMA_TOKENS:,} tokens unless --max-tokens says otherwise.",
        ),
    ] = None,
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
            "--json",
            help="One JSON object; its 'session' is what --resume takes.",
            rich_help_panel=_OUTPUT,
        ),
    ] = False,
    as_events: Annotated[
        bool,
        typer.Option(
            "--jsonl",
            help="A JSON object for each event, as it happens.",
            rich_help_panel=_OUTPUT,
        ),
    ] = False,
    raw: Annotated[
        bool,
        typer.Option(
            "--raw",
            help="The model's text as it is, without a line end of ours.",
            rich_help_panel=_OUTPUT,
        ),
    ] = False,
    stats: Annotated[
        bool,
        typer.Option(
            "--stats",
            help="Tokens, speed and memory on standard error.",
            rich_help_panel=_OUTPUT,
        ),
    ] = False,
    quiet: options.Quiet = False,
    continue_: options.Continue = False,
    resume: options.Resume = None,
    *,
    given: options.GivenOptions,
) -> None:
    """Answer one question about text, files and pictures.

    The answer goes to standard output, all else to standard error.
    Piped input is a document or a picture that is read before the question.
    '-' as a file or a picture is standard input.

    rqchat ask --image cat.png "What is in this picture?"

    cat book.txt | rqchat ask "Who is the narrator?"

    git diff | rqchat ask --json --temperature 0 "Write a commit message."

    rqchat ask -f scan.pdf --pages 3-9 "What was agreed, and on which page?"

    rqchat ask -f contract.pdf -q "Who signs?" -q "Until when?"

    rqchat ask -c "And who else?"
    """
    from rqchat.cli.commands.ask_output import Output, Report, choose_form
    from rqchat.cli.commands.ask_run import answer_all, fit_turns
    from rqchat.cli.download_consent import with_consent
    from rqchat.cli.inputs import Inputs, gather_turns
    from rqchat.cli.store_access import open_recorder, resumed_conversation, with_saved_model
    from rqchat.engine.generation.json_schema import read_schema
    from rqchat.ui.console import Screen
    from rqchat.ui.looks.theme import theme_of

    settings, sampling, chat_settings = given.settings(), given.sampling(), given.chat_settings()
    inputs = Inputs(
        prompt=prompt,
        questions=question or (),
        questions_file=questions,
        images=image or (),
        files=file or (),
        clipboard=clipboard,
        encoding=encoding,
        pages=pages,
        offline=settings.offline,
    )
    several = inputs.has_several
    form = choose_form(raw=raw, as_json=as_json, as_events=as_events, several=several)
    place = _place(truncate)
    shape = read_schema(schema) if schema is not None else None
    if shape is not None and sampling.max_tokens is None:
        sampling = replace(sampling, max_tokens=_SCHEMA_TOKENS)
    saved = resumed_conversation(latest=continue_, reference=resume)
    if saved is not None and several:
        raise UsageError("a conversation goes on with one question; ask the others after it")
    screen = Screen(quiet=quiet, theme=theme_of(chat_settings.theme))
    # Before the model is loaded, so that an input that cannot be read is reported at once.
    turns = gather_turns(inputs, screen)
    report = Report(screen, Output(form, stats, several, whole_only=shape is not None))
    recorder = open_recorder(settings, "ask", screen)
    try:
        screen.status("loading")
        system = chat_settings.system
        if saved is not None and not given.has("system"):
            system = saved.record.system
        settings = with_consent(with_saved_model(settings, saved), screen)
        session = open_session.open_in_foreground(settings, system, report.show)
        session.thinking = chat_settings.think
        if saved is not None:
            session.restore(saved.messages)
            recorder.adopt(saved)
        _show_chips(screen, turns[0], session.plan)
        screen.status("counting tokens")
        turns, dropped_tokens = fit_turns(session, turns, place, sampling.max_tokens, screen)
        answer_all(session, recorder, turns, sampling, shape, report, dropped_tokens)
    except RqchatError as error:
        report.close()
        report.fail(error)
        raise
    finally:
        report.close()
        recorder.close()


def _place(name: str | None) -> Place | None:
    from rqchat.engine.generation.truncate import PLACES

    for place in PLACES:
        if name == place:
            return place
    if name is not None:
        raise UsageError(f"--truncate is {name!r}; allowed are {', '.join(PLACES)}")
    return None


def _budget(plan: MemoryPlan | None, wanted_tokens: int) -> int:
    """Of a server's model nobody says what it takes; most take the model's own default."""
    return plan.budget_of(wanted_tokens) if plan else DEFAULT_IMAGE_TOKENS


def _show_chips(screen: Screen, turn: UserTurn, plan: MemoryPlan | None) -> None:
    from rqchat.engine.inputs.pictures import file_of_page, soft_token_count
    from rqchat.ui.text import picture_chip

    number = 1
    for name, group in groupby(turn.pictures, lambda picture: file_of_page(picture.name)):
        pictures = tuple(group)
        tokens = [
            soft_token_count(each.width, each.height, _budget(plan, each.wanted_tokens))
            for each in pictures
        ]
        if name and len(pictures) > 1:
            screen.note(f"[{name}: {len(pictures)} pages as pictures, {sum(tokens):,} tokens]")
        else:
            for place, (picture, count) in enumerate(zip(pictures, tokens, strict=True), number):
                screen.note(picture_chip(place, picture.width, picture.height, count))
        number += len(pictures)
