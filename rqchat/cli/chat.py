"""`rqchat` without a command: the chat.

Typing starts at once while the model loads behind the prompt. An error never ends the chat and
never loses what was typed or attached; only a model that cannot be loaded does.
"""

from __future__ import annotations

import mimetypes
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rqchat import __version__
from rqchat.cli import opening, places, slash
from rqchat.cli.inputs import read_stdin
from rqchat.cli.opening import BackgroundOpening, Session, interruptible
from rqchat.cli.paths import split_paths
from rqchat.engine.conversation import UserTurn
from rqchat.engine.documents import Document, decode_document, read_document
from rqchat.engine.events import Done, Event, LoadProgress, Notice
from rqchat.engine.images import Picture, read_picture, soft_token_count
from rqchat.engine.settings import SamplingSettings, Settings
from rqchat.errors import RqchatError, UsageError
from rqchat.ui.console import Screen, is_terminal, keys_kept
from rqchat.ui.stream import AnswerView, load_status
from rqchat.ui.tables import chat_status, help_table, stats_table
from rqchat.ui.text import format_count

if TYPE_CHECKING:
    from rqchat.ui.prompt import LineEditor

__all__ = ["Chat", "run_chat"]


def run_chat(settings: Settings, system: str | None) -> None:
    """Chat until the user leaves. A document piped in is attached to the first message.

    Raises:
        UsageError: standard output or standard error is no terminal.
        RqchatError: the model cannot be opened, or the piped document cannot be used.
    """
    screen = Screen()
    if not (is_terminal("stdout") and is_terminal("stderr")):
        raise UsageError('a chat needs a terminal; for pipes and files: rqchat ask "QUESTION"')
    piped = None
    if not is_terminal("stdin"):
        piped = decode_document(read_stdin(screen), "standard input")
    with keys_kept():
        chat = Chat(screen, settings, system)
        chat.say(f"rqchat {__version__}; /help lists commands, Ctrl-D leaves")
        if piped is not None:
            chat.attach(piped)
        chat.run(_open_editor(chat, from_terminal=piped is not None))


def _open_editor(chat: Chat, *, from_terminal: bool) -> LineEditor:
    """The line editor; `from_terminal` reads keys from the terminal past a piped input."""
    from rqchat.ui.prompt import LineEditor

    return LineEditor(
        history_path=places.history_file(),
        arguments=slash.completions(),
        status=chat.status,
        from_terminal=from_terminal,
    )


class Chat:
    """One conversation at the prompt, and what is attached to the next message.

    Attributes:
        sampling: how the next answer is drawn.
    """

    def __init__(self, screen: Screen, settings: Settings, system: str | None) -> None:
        self.sampling = SamplingSettings()
        self._screen = screen
        self._pictures: list[Picture] = []
        self._documents: list[Document] = []
        self._draft = ""
        self._last: Done | None = None
        self._loading = "loading"
        self._waiting = False
        self._system = system
        self._opening = BackgroundOpening(
            lambda: opening.open_session(settings, system, self._on_load)
        )

    def run(self, editor: LineEditor) -> None:
        """Read and answer until the user leaves.

        Raises:
            RqchatError: the model cannot be opened.
        """
        while True:
            loading = self._opening.session is None
            try:
                draft, self._draft = self._draft, ""
                line = editor.read(draft=draft, give_up=self._opening_error if loading else None)
                self._obey(line)
            except EOFError:
                return
            except KeyboardInterrupt:
                self.say("stopped")

    def _obey(self, line: str) -> None:
        try:
            if slash.is_command(line):
                slash.run_command(self, line)
            elif line and not self._attach_dropped(line):
                self._send(line)
        except EOFError:
            raise
        except Exception as error:
            if error is self._opening.error:
                raise
            self._screen.error(str(error))
            if not isinstance(error, RqchatError):
                traceback.print_exc(file=sys.stderr)
                self._screen.error("this is a bug in rqchat; the chat goes on")

    def _send(self, text: str) -> None:
        """Ask; where the session did not take the turn, text and attachments come back."""
        self._draft = text
        session = self._session()
        before = len(session.messages)
        view = AnswerView(self._screen)
        turn = UserTurn(text, tuple(self._pictures), tuple(self._documents))
        try:
            with interruptible(session):
                for event in session.ask(turn, self.sampling):
                    view.show(event)
                    if isinstance(event, Done):
                        self._last = event
        finally:
            view.close()
            if len(session.messages) > before:
                self._draft = ""
                self._pictures.clear()
                self._documents.clear()
        self.say("")

    def attach_picture(self, path: Path) -> None:
        """Attach a picture and say what it costs.

        Raises:
            InputError: it cannot be used.
            RqchatError: the model cannot be opened.
        """
        self.attach(read_picture(path))

    def attach_document(self, path: Path) -> None:
        """Attach a text file and say what it costs.

        Raises:
            InputError: it cannot be used.
            RqchatError: the model cannot be opened.
        """
        self.attach(read_document(path))

    def attach(self, item: Picture | Document) -> None:
        """Attach to the next message; answers `[Image 1: 640x480, 264 tokens]` or its like.

        Raises:
            RqchatError: the model, which counts the tokens, cannot be opened.
        """
        session = self._session()
        if isinstance(item, Picture):
            tokens = soft_token_count(item.width, item.height, session.plan.image_tokens)
            self._pictures.append(item)
            number = sum(len(m.pictures) for m in session.messages) + len(self._pictures)
            chip = f"Image {number}: {item.width}x{item.height}"
        else:
            tokens = session.count_tokens(UserTurn("", documents=(item,)))
            tokens -= session.count_tokens(UserTurn(""))
            self._documents.append(item)
            number = sum(len(m.documents) for m in session.messages) + len(self._documents)
            chip = f"File {number}: {Path(item.name).name}"
        self.say(f"[{chip}, {format_count(tokens)} tokens]")

    def clear(self) -> None:
        """Forget the conversation and what is attached."""
        self._session().clear()
        self._pictures.clear()
        self._documents.clear()
        self._last = None
        self.say("cleared; the next message starts anew")

    @property
    def system(self) -> str | None:
        """The instructions above the conversation."""
        session = self._opening.session
        return session.system if session else self._system

    def set_system(self, text: str | None) -> None:
        """Put other instructions above the conversation, or none."""
        self._session().system = text
        self.say("system prompt set" if text else "system prompt removed")

    def set_thinking(self, on: bool) -> None:
        """Let the model think before it answers, or not."""
        self._session().thinking = on
        self.say(f"thinking is {'on' if on else 'off'}")

    def show_stats(self) -> None:
        """Tokens, speed and memory of the last answer."""
        if self._last is None:
            self.say("no answer yet")
        else:
            self._screen.aside(stats_table(self._last))

    def show_help(self, rows: Iterable[tuple[str, str]]) -> None:
        """Commands and keys with what they do."""
        self._screen.aside(help_table(rows))

    def say(self, text: str) -> None:
        """One line that is no answer."""
        self._screen.note(text)

    def status(self) -> str:
        """The status line."""
        session = self._opening.session
        if session is None:
            return self._loading
        rate = self._last.timing.decode_tokens_per_s if self._last else None
        chosen = session.plan.chosen
        return chat_status(
            session.model_name, chosen, session.used_tokens, session.context_tokens, rate
        )

    def _session(self) -> Session:
        if self._opening.session is None:
            self._waiting = True
            self._screen.status(self._loading)
        try:
            return self._opening.wait()
        finally:
            self._waiting = False
            self._screen.clear_status()

    def _opening_error(self) -> BaseException | None:
        return self._opening.error

    def _on_load(self, event: Event) -> None:
        match event:
            case Notice(text):
                self._screen.note(text)
            case LoadProgress():
                self._loading = load_status(event)
                if self._waiting:
                    self._screen.status(self._loading)

    def _attach_dropped(self, line: str) -> bool:
        """Attach a line that is nothing but existing files, as terminals paste dropped ones."""
        if not line.startswith(("/", "~", "'", '"', "file://")) or "\n" in line:
            return False
        try:
            paths = split_paths(line)
        except UsageError:
            return False
        if not all(path.is_file() for path in paths):
            return False
        for path in paths:
            kind = mimetypes.guess_type(path.name)[0] or ""
            (self.attach_picture if kind.startswith("image/") else self.attach_document)(path)
        return True
