"""/clear, /new and /system: the conversation as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rqchat.cli.slash.registry import Command

if TYPE_CHECKING:
    from rqchat.cli.chat import Chat

__all__ = ["COMMANDS"]


def _clear(chat: Chat, argument: str) -> None:
    chat.talk.change("the clearing", ())
    chat.attached.clear()
    chat.last = None
    chat.say("cleared; the next message starts anew, and /undo brings back what was")


def _system(chat: Chat, argument: str) -> None:
    if not argument:
        chat.say(chat.model.system or "no system prompt; /system TEXT sets one")
        return
    removed = argument in ("off", "none")
    chat.instruct(None if removed else argument)
    chat.say("system prompt removed" if removed else "system prompt set")


COMMANDS = (
    Command(
        "/clear",
        "",
        "begin anew with nothing attached, as /new does",
        _clear,
        aliases=("/new", "/reset"),
    ),
    Command(
        "/system", "[TEXT|off]", "show, set or remove the instructions", _system, aliases=("/sys",)
    ),
)
