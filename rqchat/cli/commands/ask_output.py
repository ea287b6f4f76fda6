"""The output of `rqchat ask`: answers as text, JSON objects or JSON events, and statistics."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from rqchat.engine.events import (
    Done,
    Event,
    LoadProgress,
    Notice,
    PrefillProgress,
    TextDelta,
    ThoughtDelta,
    ToolRequest,
)
from rqchat.errors import RqchatError, UsageError
from rqchat.ui.console import Screen
from rqchat.ui.stream import AnswerView
from rqchat.ui.tables import stats_table

if TYPE_CHECKING:
    from rqchat.engine.session_api import Session

__all__ = ["Form", "Output", "Report", "choose_form"]

Form = Literal["text", "raw", "json", "jsonl"]
_EVENT_NAMES = {
    Notice: "notice",
    LoadProgress: "load",
    PrefillProgress: "prefill",
    ThoughtDelta: "thought",
    TextDelta: "text",
    ToolRequest: "tool",
}


@dataclass(frozen=True, slots=True)
class Output:
    """How answers are to be written.

    Attributes:
        form: `text` as it comes, `raw` exactly as the model gives it, `json` one object for each
            answer, `jsonl` one object for each event.
        stats: a table of tokens, speed and memory after each answer.
        several: there are several questions, so that objects name theirs.
        whole_only: text is shown when it is complete, or not at all.
    """

    form: Form = "text"
    stats: bool = False
    several: bool = False
    whole_only: bool = False


def choose_form(*, raw: bool, as_json: bool, as_events: bool, several: bool) -> Form:
    """The form that the flags ask for; several answers are objects unless they are events.

    Raises:
        UsageError: more than one flag is set, or `--raw` with several questions.
    """
    if raw + as_json + as_events > 1:
        raise UsageError("--raw, --json and --jsonl are three forms of output; take one of them")
    if as_events:
        return "jsonl"
    if several and raw:
        raise UsageError("several questions are answered as JSON Lines; leave out --raw")
    if as_json or several:
        return "json"
    return "raw" if raw else "text"


class Report:
    """Shows events as `output` says, and keeps the text of the current answer."""

    def __init__(self, screen: Screen, output: Output) -> None:
        self._screen, self._output = screen, output
        self._echo = output.form == "text" and not output.whole_only
        self._echo_raw = output.form == "raw" and not output.whole_only
        # For people who watch; scripts have `--json`, and `--stats` says the same at length
        self._summary = screen.can_rewrite and output.form == "text" and not output.stats
        self._view = self._new_view(recalls=True)

    def show(self, event: Event) -> None:
        """Show one event of loading or answering.

        Raises:
            ReaderGoneError: standard output has been closed.
        """
        self._view.show(event)
        # `finish` writes it, together with what the session knows.
        if isinstance(event, Done):
            return
        if self._output.form == "jsonl":
            self._write({"event": _EVENT_NAMES[type(event)], **asdict(event)})
        elif self._echo_raw and isinstance(event, TextDelta):
            self._screen.answer_raw(event.text)

    def begin_again(self, why: str) -> None:
        """The same answer comes once more, and what was shown of it is none."""
        self.show(Notice(why))
        self._view.close()
        self._view = self._new_view()

    def show_partial(self) -> None:
        """What came of an answer that is not whole, on standard error."""
        self._view.close()
        self._screen.thought(f"{self._view.text}\n")

    def finish(
        self,
        session: Session,
        question: str,
        done: Done,
        saved_as: str | None,
        dropped_tokens: int | None,
    ) -> None:
        """The end of an answer, which is `saved_as` a conversation of that id, or nowhere.

        What is shown next belongs to another answer.

        Raises:
            ReaderGoneError: standard output has been closed.
        """
        text = self._view.text
        match self._output.form:
            case "text" if self._output.whole_only:
                self._screen.answer(text + "\n")
            case "raw" if self._output.whole_only:
                self._screen.answer_raw(text)
            case "json" | "jsonl" as form:
                self._write(
                    ({"event": "done"} if form == "jsonl" else {})
                    | ({"question": question} if self._output.several else {})
                    | _record(text, session, done, saved_as, dropped_tokens)
                )
            case _:
                pass  # it has been written while it came
        if self._output.stats:
            self._screen.aside(stats_table(done))
        # Later prompts begin with what this process has read, which is nothing to mention.
        self._view = self._new_view()

    def fail(self, error: RqchatError) -> None:
        """Tells readers of events why there will be no more; the error itself is raised on."""
        if self._output.form == "jsonl":
            self._write({"event": "error", "message": str(error), "exit_code": error.exit_code})

    def close(self) -> None:
        """Ends the line that is open."""
        self._view.close()

    def _new_view(self, *, recalls: bool = False) -> AnswerView:
        return AnswerView(self._screen, echo=self._echo, recalls=recalls, summary=self._summary)

    def _write(self, record: dict[str, Any]) -> None:
        self._screen.answer(json.dumps(record) + "\n")


def _record(
    answer: str, session: Session, done: Done, saved_as: str | None, dropped_tokens: int | None
) -> dict[str, Any]:
    """The object of `--json`; its keys are a contract. `dropped` is there where it was allowed;
    `session` is what `--resume` takes, or null where nothing was saved; weights and bits are null
    where a server has the model."""
    chosen = session.plan.chosen if session.plan else None
    dropped = {} if dropped_tokens is None else {"dropped": dropped_tokens}
    return {
        "answer": answer,
        "session": saved_as,
        "model": session.model_name,
        "weights": chosen.weights if chosen else None,
        "kv_bits": chosen.kv_bits if chosen else None,
        "context": session.context_tokens,
        "tokens": asdict(done.tokens) | dropped,
        "timing": asdict(done.timing),
        "memory": asdict(done.memory),
        "stop_reason": done.stop_reason,
    }
