"""A model's chat template, rendered where it can do no harm: in a process with fixed limits.

The pocket model's own template is part of the program and runs in this process; every other one
comes with a download. The process starts with the first rendering and ends with its `ChatTemplate`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rqchat.engine.foreign import border, cause_of
from rqchat.engine.generation import template_renderer
from rqchat.engine.generation.template_renderer import MOST_CPU_S, Renderer
from rqchat.errors import ModelError, RqchatError

__all__ = ["ChatTemplate"]

_OWN = Path(__file__).parents[2] / "pocket" / "chat_template.jinja"


class ChatTemplate:
    """The template of one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        """`tokenizer` is transformers'.

        Raises:
            ModelError: it has no template for conversations.
        """
        with border(_refusal):
            text = tokenizer.get_chat_template()
            if not isinstance(text, str):
                raise ValueError(f"it is {text!r:.100}, not a text")
            self._text = text
            self._tokens: dict[str, str] = dict(tokenizer.special_tokens_map)
            self._trusted = text == _OWN.read_text(encoding="utf-8")
        self._renderer: Renderer | None = None
        self._process: subprocess.Popen[str] | None = None

    def render(
        self,
        records: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        **switches: bool,
    ) -> str:
        """The conversation of `records` as the template writes it.

        Args:
            records: messages as transformers has them, of plain values.
            tools: functions that the model may call, as transformers has them.
            switches: `add_generation_prompt`, and what else a template may ask for.

        Raises:
            ModelError: the template cannot write it, or takes too long or too much memory.
        """
        values = {
            **self._tokens,
            "add_generation_prompt": False,
            **switches,
            "messages": [dict(record) for record in records],
            "tools": [dict(tool) for tool in tools] or None,
            "documents": None,
        }
        if not self._trusted:
            return self._render_apart(values)
        with border(_refusal):
            self._renderer = self._renderer or Renderer(self._text)
            return self._renderer.render(values)

    def _render_apart(self, values: Mapping[str, Any]) -> str:
        try:
            with border(_refusal):
                process = self._process = self._process or self._start()
                line = _asked(process, json.dumps(values))
                result = json.loads(line) if line else {"error": _end_of(process)}
        except BaseException:
            # An interrupted process would answer the next question with this one's result
            self._stop()
            raise
        if "error" in result:
            self._stop()
            raise _refusal(cause_of(ValueError(result["error"])))
        return str(result["text"])

    def _start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            # -P: nothing is imported out of the folder that the file lies in, or the user is in
            [sys.executable, "-P", template_renderer.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            cwd=os.path.sep,
            process_group=0,  # Ctrl-C is meant for this process
        )
        weakref.finalize(self, _kill, process)
        _told(process, json.dumps(self._text))
        return process

    def _stop(self) -> None:
        if self._process is not None:
            _kill(self._process)
            self._process = None


def _told(process: subprocess.Popen[str], line: str) -> bool:
    """Whether `process` took the line; it takes none once it has ended."""
    assert process.stdin is not None
    try:
        process.stdin.write(line + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        return False
    return True


def _asked(process: subprocess.Popen[str], line: str) -> str:
    """The line that `process` answers with; nothing where it ended instead."""
    assert process.stdout is not None
    return process.stdout.readline() if _told(process, line) else ""


def _end_of(process: subprocess.Popen[str]) -> str:
    """Why a process ended without an answer."""
    code = process.wait()
    if code == -signal.SIGXCPU:
        return f"it takes more than {MOST_CPU_S} seconds of processor time"
    return f"its process ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}"


def _kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except BrokenPipeError:  # what it had not taken yet
                continue


def _refusal(cause: str) -> RqchatError:
    return ModelError(f"its chat template cannot write this conversation: {cause}")
