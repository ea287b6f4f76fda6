"""`rqchat` without a command: the chat.

Typing starts at once while the model loads behind the prompt. An error never ends the chat and
never loses what was typed or attached; only a model that cannot be loaded does.
"""

from __future__ import annotations

import mimetypes
import sys
import traceback
from typing import TYPE_CHECKING

from rqchat import __version__
from rqchat.cli import opening, places
from rqchat.cli.attached import Attachments
from rqchat.cli.inputs import read_stdin
from rqchat.cli.opening import BackgroundOpening, Session, interruptible
from rqchat.cli.paths import split_paths
from rqchat.cli.slash import table
from rqchat.cli.sources import document_from_bytes, load_documents, load_picture
from rqchat.engine.documents import Document
from rqchat.engine.events import Done, Event, LoadProgress, Notice
from rqchat.engine.images import Picture
from rqchat.engine.settings import SamplingSettings, Settings
from rqchat.errors import RqchatError, UsageError
from rqchat.ui.console import Renderable, Screen, is_terminal, keys_kept
from rqchat.ui.stream import AnswerView, load_status
from rqchat.ui.tables import chat_status

if TYPE_CHECKING:
    from rqchat.ui.prompt import LineEditor

__all__ = ["Chat", "run_chat"]


def run_chat(settings: Settings, system: str | None, sampling: SamplingSettings) -> None:
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
        piped = document_from_bytes(read_stdin(screen), "standard input", screen)
    with keys_kept():
        chat = Chat(screen, settings, system)
        chat.sampling = sampling
        chat.say(f"rqchat {__version__}; /help lists commands, Ctrl-D leaves")
        if piped is not None:
            chat.attach(piped)
        chat.run(_open_editor(chat, from_terminal=piped is not None))
        chat.close()


def _open_editor(chat: Chat, *, from_terminal: bool) -> LineEditor:
    """The line editor; `from_terminal` reads keys from the terminal past a piped input."""
    from rqchat.ui.prompt import LineEditor

    return LineEditor(
        history_path=places.history_file(),
        commands=chat.commands,
        status=chat.status,
        from_terminal=from_terminal,
    )


class Chat:
    """One conversation at the prompt, and what is attached to the next message.

    Attributes:
        sampling: how the next answer is drawn.
        attached: what goes along with the next message.
        commands: the slash commands by name.
        last: how the last answer ended.
    """

    def __init__(self, screen: Screen, settings: Settings, system: str | None) -> None:
        self.sampling = SamplingSettings()
        self._screen = screen
        self.attached = Attachments()
        self.commands = table.all_commands()
        self._draft = ""
        self.last: Done | None = None
        self._loading = "loading"
        self._waiting = False
        self._system = system
        self._offline = settings.offline
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

    def close(self) -> None:
        """Keep what was read, for the next time."""
        if self._opening.session is not None:
            self._opening.session.close()

    def _obey(self, line: str) -> None:
        try:
            if table.is_command(line):
                table.run_command(self, line)
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
        session = self.session()
        before = len(session.messages)
        view = AnswerView(self._screen)
        turn = self.attached.turn(text)
        try:
            with interruptible(session):
                for event in session.ask(turn, self.sampling):
                    view.show(event)
                    if isinstance(event, Done):
                        self.last = event
        finally:
            view.close()
            if len(session.messages) > before:
                self._draft = ""
                self.attached.clear()
        self.say("")

    def attach(self, item: Picture | Document) -> None:
        """Attach to the next message; answers `[Image 1: 640x480, 264 tokens]` or its like.

        Raises:
            RqchatError: it cannot be used, or the model, which counts the tokens, cannot be opened.
        """
        self.say(self.attached.add(item, self.session()))

    def attach_picture(self, reference: str) -> None:
        """Attach the picture that a path or a URL names.

        Raises:
            RqchatError: it cannot be had or used.
        """
        self.attach(load_picture(reference, self._screen, offline=self._offline))

    def attach_documents(self, reference: str) -> None:
        """Attach what a path, a folder, a pattern or a URL names.

        Raises:
            RqchatError: it cannot be had or used.
        """
        documents = load_documents(reference, self._screen, offline=self._offline)
        if len(documents) == 1:
            self.attach(documents[0])
        else:
            self.say(self.attached.add_folder(reference, documents, self.session()))

    def clear(self) -> None:
        """Forget the conversation and what is attached."""
        self.session().clear()
        self.attached.clear()
        self.last = None
        self.say("cleared; the next message starts anew")

    @property
    def system(self) -> str | None:
        """The instructions above the conversation."""
        session = self._opening.session
        return session.system if session else self._system

    def show(self, renderable: Renderable) -> None:
        """A table that is no answer."""
        self._screen.aside(renderable)

    def say(self, text: str) -> None:
        """One line that is no answer."""
        self._screen.note(text)

    def status(self) -> str:
        """The status line."""
        session = self._opening.session
        if session is None:
            return self._loading
        rate = self.last.timing.decode_tokens_per_s if self.last else None
        chosen = session.plan.chosen
        return chat_status(
            session.model_name, chosen, session.used_tokens, session.context_tokens, rate
        )

    def session(self) -> Session:
        """The session, waited for while the model loads.

        Raises:
            RqchatError: the model cannot be opened.
        """
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
            is_picture = kind.startswith("image/")
            (self.attach_picture if is_picture else self.attach_documents)(str(path))
        return True
