"""/undo, /retry, /continue, /edit and /copy: the last turn."""

from __future__ import annotations

from dataclasses import replace

from rqchat.cli.chat.chat import Chat
from rqchat.cli.chat.slash.copy_text import write_clipboard
from rqchat.cli.chat.slash.external_editor import edit_text, own_editor
from rqchat.cli.chat.slash.registry import Command, words
from rqchat.cli.chat.turn_runner import Messages, TurnRequest
from rqchat.engine.conversation import Message, UserTurn
from rqchat.errors import RqchatError, UsageError
from rqchat.ui.markdown_blocks import code_blocks

__all__ = ["COMMANDS"]


def _undo(chat: Chat, argument: str) -> None:
    times = _whole_number(argument, "/undo 2") if argument else 1
    for _ in range(times):
        chat.say(f"took back {chat.turns.undo()}")


def _retry(chat: Chat, argument: str) -> None:
    seed = None
    if argument:
        name, _, value = argument.replace("=", " ", 1).partition(" ")
        if name != "--seed":
            raise UsageError("/retry takes nothing, or --seed NUMBER")
        seed = _whole_number(value, "/retry --seed 7")
    asked, answer = _last_turn(chat)
    # Without a seed of its own, or a seed that was /set would draw the same answer again
    sampling = replace(chat.sampling, seed=seed)

    def compare(messages: Messages) -> Messages:
        if messages[-1].text == answer.text:
            chat.say("the same answer again; with a higher temperature (/set) they differ")
        return messages

    base = chat.session().messages[:-2]
    chat.turns.start(TurnRequest("the retry", _turn_of(asked), sampling, base=base, accept=compare))


def _continue(chat: Chat, argument: str) -> None:
    asked, answer = _last_turn(chat)

    def compare(messages: Messages) -> Messages:
        if messages[-1].text == answer.text:
            raise RqchatError("the model has nothing to add: its answer had come to an end")
        return messages

    step = TurnRequest(
        "the continuation",
        _turn_of(asked),
        chat.sampling,
        base=chat.session().messages[:-2],
        begun=answer.text,
        accept=compare,
    )
    chat.turns.start(step)


def _edit(chat: Chat, argument: str) -> None:
    asked, _ = _last_turn(chat)
    text: str | None = asked.text
    if own_editor():
        text = edit_text(asked.text)
        if text is None or text == asked.text:
            chat.say("nothing was changed")
            return
    chat.turns.change("the edit", chat.session().messages[:-2])
    chat.attachments.put_back(_turn_of(asked), chat.session())
    chat.type(text or "")
    chat.say("the last turn is taken back; Enter sends the question anew, /undo brings it back")


def _copy(chat: Chat, argument: str) -> None:
    _, answer = _last_turn(chat)
    text = answer.text
    if argument == "code":
        blocks = code_blocks(text)
        if not blocks:
            raise UsageError("the last answer has no block of code")
        text = blocks[-1]
    elif argument:
        text = _numbered_code(chat, argument)
    chat.say(f"copied {len(text):,} characters {write_clipboard(text)}")


def _numbered_code(chat: Chat, argument: str) -> str:
    """The block of code that the screen shows with this number."""
    answers = (each.text for each in chat.session().messages if each.role != "user")
    blocks = [block for text in answers for block in code_blocks(text)]
    if not argument.isdecimal():
        raise UsageError("/copy takes nothing, the number of a block of code, or 'code'")
    if not 0 < int(argument) <= len(blocks):
        there = f"there are {len(blocks)}" if blocks else "there is none"
        raise UsageError(f"there is no block of code {argument}; {there} in this conversation")
    return blocks[int(argument) - 1]


def _last_turn(chat: Chat) -> tuple[Message, Message]:
    messages = chat.session().messages
    if not messages:
        raise UsageError("there is no answer yet")
    return messages[-2], messages[-1]


def _turn_of(asked: Message) -> UserTurn:
    return UserTurn(asked.text, asked.pictures, asked.documents)


def _whole_number(text: str, example: str) -> int:
    if not text.strip().isdecimal() or int(text) == 0:
        raise UsageError(f"{text!r} is no whole number above 0; for example: {example}")
    return int(text)


COMMANDS = (
    Command("/undo", "[N]", "take back the last turn, or the last change", _undo),
    Command(
        "/retry",
        "[--seed N]",
        "draw the last answer anew",
        _retry,
        words("--seed"),
        ("/regen", "/regenerate"),
    ),
    Command("/continue", "", "go on with an answer that was stopped", _continue),
    Command("/edit", "", "take back the last turn and change its question", _edit),
    Command(
        "/copy", "[N|code]", "copy the last answer, code N, or its last code", _copy, words("code")
    ),
)
