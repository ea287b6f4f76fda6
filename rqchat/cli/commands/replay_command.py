"""`rqchat replay`: saved answers made again, and whether they came out the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rqchat.cli import open_session
from rqchat.errors import InputError

if TYPE_CHECKING:
    from rqchat.engine.conversations.replay import Replayed
    from rqchat.engine.conversations.rows import Kept
    from rqchat.engine.session_api import Session
    from rqchat.engine.settings import Settings
    from rqchat.ui.console import Screen

__all__ = ["replay"]


def replay(
    reference: Annotated[
        str, typer.Argument(metavar="ID", help="Id or name of a conversation, or its beginning.")
    ],
    turn: Annotated[
        int | None, typer.Option("--turn", metavar="N", min=1, help="This answer alone.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Make saved answers again, with the settings and seeds that their receipts hold.

    Says for each whether it came out the same, letter by letter, and shows the difference where
    it did not. Exit code 0: all the same; 1: not.

    rqchat replay k3f9q2ab --turn 2
    """
    from rqchat.cli.store_access import load_saved
    from rqchat.ui.console import Screen

    saved = load_saved(reference)
    kept = [each for _, each in saved.turns]
    _check(kept, turn)
    screen = Screen()
    found = []
    for replayed in _replay_all(kept, turn, screen):
        if turn is None or replayed.number == turn:
            found.append(replayed)
            if not as_json:
                _show(screen, replayed)
    if as_json:
        screen.answer(json.dumps([_record(each) for each in found], indent=2) + "\n")
    if not all(each.is_same for each in found):
        raise typer.Exit(1)


def _check(kept: list[Kept], turn: int | None) -> None:
    if turn is not None and turn > len(kept):
        raise InputError(f"there is no turn {turn}; the conversation has {len(kept)}")
    if turn is not None and not kept[turn - 1].is_answered:
        raise InputError(f"turn {turn} has no answer to compare with")
    if not any(each.is_answered for each in kept):
        raise InputError("the conversation has no answer yet")


def _replay_all(kept: list[Kept], turn: int | None, screen: Screen) -> Iterator[Replayed]:
    from rqchat.engine.conversations.replay import earlier_messages, is_cold, turns_to_replay

    session: Session | None = None
    settings: Settings | None = None
    try:
        for index in turns_to_replay(kept, turn):
            receipt = kept[index].receipt
            # The cache on disk may hold now what it did not hold then, and this has to begin alike
            wanted = replace(receipt.settings, no_cache=True)
            if session is not None and wanted != settings:
                session.close()
                session = None  # the last reference: two models do not fit on most devices
            if session is None:
                session, settings = _open(wanted, screen), wanted
            elif is_cold(kept[index]):
                session.clear()
            session.restore(earlier_messages(kept, index))
            session.system, session.thinking = receipt.system, receipt.thinking
            yield _again(session, index + 1, kept[index], screen)
    finally:
        if session is not None:
            session.close()


def _open(settings: Settings, screen: Screen) -> Session:
    from rqchat.ui.stream import AnswerView

    view = AnswerView(screen, echo=False)
    try:
        screen.status("loading")
        return open_session.open_in_foreground(settings, None, view.show)
    finally:
        view.close()


def _again(session: Session, number: int, kept: Kept, screen: Screen) -> Replayed:
    from rqchat.engine.conversations.receipt import Receipt
    from rqchat.engine.conversations.replay import Replayed, changes, replay_sampling
    from rqchat.engine.events import Done, PrefillProgress
    from rqchat.ui.progress import prefill_status

    receipt, sampling = kept.receipt, replay_sampling(kept)
    done: Done | None = None
    events = session.ask(kept.turn, sampling, begun=receipt.begun, schema=receipt.schema)
    with open_session.interruptible(session) as stop:
        for event in events:
            if isinstance(event, PrefillProgress):
                screen.status(f"turn {number}: {prefill_status(event, screen.err.width - 10)}")
            elif isinstance(event, Done):
                done = event
    screen.clear_status()
    assert done is not None, "an answer ends with Done"
    if done.stop_reason == "interrupted":
        raise typer.Exit(stop.exit_code)
    now = Receipt.begin(session, sampling)
    after = session.messages[-1].text
    return Replayed(number, kept.answer, after, done, changes(receipt, now))


def _show(screen: Screen, replayed: Replayed) -> None:
    for name, (then, now) in replayed.changed.items():
        screen.note(f"turn {replayed.number}: {name} was {then or 'none'}, is {now or 'none'}")
    verdict = "the same" if replayed.is_same else "differs"
    screen.answer(f"turn {replayed.number}: {verdict}, {replayed.done.tokens.output:,} tokens\n")
    if not replayed.is_same:
        screen.answer(replayed.difference + "\n")


def _record(replayed: Replayed) -> dict[str, Any]:
    return {
        "turn": replayed.number,
        "same": replayed.is_same,
        "saved": replayed.before,
        "replayed": replayed.after,
        "changed": {
            name: {"was": then, "is": now} for name, (then, now) in replayed.changed.items()
        },
        "tokens": asdict(replayed.done.tokens),
        "timing": asdict(replayed.done.timing),
    }
