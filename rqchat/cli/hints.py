"""Hints for what was typed wrong: the nearest known word, or what another program's word is here.

The other programs are ollama, llm, aichat and llama.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

__all__ = ["did_you_mean", "usage_message"]

_ASK_HINT = 'one answer: rqchat ask "QUESTION"'
_COMMANDS = {
    "run": f"a chat: rqchat; {_ASK_HINT}",
    "chat": f"a chat: rqchat; {_ASK_HINT}",
    "help": "all commands: rqchat --help",
    "version": "rqchat --version",
    "logs": "conversations: rqchat sessions",
    "history": "conversations: rqchat sessions",
    "list": "conversations: rqchat sessions; kept documents: rqchat cache; models: rqchat doctor",
    "ls": "conversations: rqchat sessions; kept documents: rqchat cache; models: rqchat doctor",
    "models": "what is downloaded: rqchat doctor; what fits: rqchat plan --model NAME",
    "show": "what fits, and why: rqchat plan --model NAME",
    "ps": "nothing runs in the background; what this machine has: rqchat doctor",
    "serve": "there is no server; for programs: rqchat ask --json, --jsonl",
    "rm": "rqchat sessions rm ID, rqchat cache rm NAME",
}
_OPTIONS = {
    **dict.fromkeys(["-p", "--prompt"], 'the question stands by itself: rqchat ask "QUESTION"'),
    **dict.fromkeys(["-t", "--temp"], "it is called --temperature"),
    **dict.fromkeys(["-a", "--attachment"], "it is called --image for pictures, --file for texts"),
    **dict.fromkeys(["--ctx", "--ctx-size", "--num-ctx"], "it is called --context"),
    **dict.fromkeys(["--n-predict", "--num-predict"], "it is called --max-tokens"),
    **dict.fromkeys(["-o", "--option"], "each has its own name, such as --temperature 0.7"),
}
_NO_COMMAND = re.compile(r"No such command '(.*)'\.", re.DOTALL)


def usage_message(error: Any) -> str:
    """What Typer's usage error says, in words that say what to type instead."""
    said: str = error.format_message()
    command = getattr(getattr(error, "ctx", None), "command_path", "rqchat")
    instead = _OPTIONS.get(getattr(error, "option_name", ""))
    if instead:
        return f"there is no {error.option_name}: {instead}"
    missing = _NO_COMMAND.match(said) if command == "rqchat" else None
    if missing and missing[1] in _COMMANDS:
        return f"there is no 'rqchat {missing[1]}' here; {_COMMANDS[missing[1]]}"
    if missing and said == missing[0]:
        return f"there is no command {missing[1]!r}; {_ASK_HINT}; 'rqchat --help' lists commands"
    if "unexpected extra argument" in said and command == "rqchat ask":
        return f"{said}: a question of several words stands in quotes"
    return f"{said} ('{command} --help' explains)"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean /image?`, or nothing where no known word is near."""
    nearest = get_close_matches(word, list(known), n=1, cutoff=0.5)  # lower, and it offers anything
    return f"; did you mean {nearest[0]}?" if nearest else ""
