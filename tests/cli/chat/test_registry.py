"""Which typed lines are slash commands."""

from __future__ import annotations

import pytest

from rqchat.cli.chat.slash.registry import Command, Commands

COMMANDS: Commands[list[str]] = Commands(
    [
        Command(
            "/help", "", "a list", lambda chat, rest: None, aliases=("/?", "help"), at_once=True
        ),
        Command("/greet", "NAME", "a greeting", lambda chat, rest: chat.append(rest)),
    ]
)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("/help", True),
        ("/hlep", True),
        ("/?", True),
        ("help", True),
        ("help me", False),
        ("/", True),
        ("/tmp", False),
        ("/home/me/cat.png", False),
        ("hello /help", False),
        ("", False),
    ],
)
def test_what_counts_as_a_command(line: str, expected: bool) -> None:
    assert COMMANDS.is_command(line) is expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [("/help", True), ("/greet Ann", False), ("/unknown", True), ("hello", False)],
)
def test_what_need_not_wait_for_the_model(line: str, expected: bool) -> None:
    assert COMMANDS.runs_at_once(line) is expected


def test_a_command_acts_on_whatever_it_is_given() -> None:
    names: list[str] = []
    COMMANDS.run(names, " /greet Ann  Smith ")
    assert names == ["Ann  Smith"]
