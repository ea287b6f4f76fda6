"""One conversation at the prompt: lines in, answers and errors out.

An error never ends the chat and never loses what was typed or attached; only a model that cannot
be loaded ends it.
"""

from __future__ import annotations

import os.path
from collections.abc import Iterable
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING

from rqchat.cli.chat.background_model import BackgroundModel, SessionStart
from rqchat.cli.chat.pending_attachments import PendingAttachments
from rqchat.cli.chat.slash.registry import Commands
from rqchat.cli.chat.turn_runner import TurnRequest, TurnRunner
from rqchat.cli.store_access import open_recorder, resume_hint
from rqchat.engine.conversation import Message, UserTurn
from rqchat.engine.conversations.database import plain
from rqchat.engine.conversations.load import SavedConversation
from rqchat.engine.conversations.recorder import RecordedTurn
from rqchat.engine.events import Done
from rqchat.engine.inputs.documents import Document
from rqchat.engine.inputs.mentioned_pictures import mentioned_pictures
from rqchat.engine.inputs.pdf import PageRanges, check_pages_used
from rqchat.engine.inputs.pictures import Picture
from rqchat.engine.inputs.reference_paths import split_paths
from rqchat.engine.inputs.references import ReferenceReader
from rqchat.engine.session_api import Session
from rqchat.engine.settings import SamplingSettings, Settings
from rqchat.errors import RqchatError, UsageError
from rqchat.ui.console import ReaderGoneError, Renderable, Screen
from rqchat.ui.input_events import show_input_event
from rqchat.ui.looks.start_header import (
    Fragments,
    RemoteHeader,
    StartHeader,
    load_header,
    model_title,
    room_for,
)
from rqchat.ui.markdown_blocks import code_blocks
from rqchat.ui.tables import chat_status

if TYPE_CHECKING:
    from rqchat.ui.editor.line_editor import LineEditor
    from rqchat.ui.stream import AnswerView

__all__ = ["Chat"]

_LEAVE_S = 5.0  # to wait for an answer to stop, so that what came of it is kept


class Chat:
    """The state of one chat, and what its commands can do.

    Attributes:
        model: the model behind the prompt.
        sampling: how the next answer is drawn.
        fold_thoughts: whether thoughts are shown in one line.
        attachments: what goes along with the next message.
        commands: the slash commands.
        turns: asks the model, and takes turns back.
        recorder: saves the conversation.
        last_done: how the last answer ended.
        editor: the line editor, once it is there.
    """

    def __init__(
        self,
        screen: Screen,
        settings: Settings,
        commands: Commands[Chat],
        system: str | None,
        saved: SavedConversation | None = None,
        *,
        sampling: SamplingSettings | None = None,
        thinking: bool = False,
        piped: tuple[Document | Picture, ...] = (),
        pictures: str = "auto",
    ) -> None:
        self.sampling = sampling or SamplingSettings()
        self.fold_thoughts = True
        self.attachments = PendingAttachments()
        self.commands = commands
        self.turns = TurnRunner(self)
        self.last_done: Done | None = None
        self.editor: LineEditor | None = None
        self.recorder = open_recorder(settings, "chat", screen)
        if saved is not None:
            self.recorder.adopt(saved)
            system = saved.record.system if system is None else system
        self._screen, self._piped, self._pictures = screen, piped, pictures
        self._is_resumed = saved is not None
        self._unanswered: UserTurn | None = None  # of the conversation that goes on
        start = SessionStart(saved.messages if saved else (), system, thinking)
        self.model = BackgroundModel(screen, settings, start, self)

    def run(self, editor: LineEditor) -> None:
        """Read and answer until the user leaves.

        Raises:
            RqchatError: the model cannot be opened.
        """
        self.editor = editor
        # Above a dumb terminal's prompt nothing can be written: there an answer is waited for
        self._screen.clear_status()
        self._screen.live = editor.live if editor.is_live else None
        try:
            while self._turn(editor):
                pass
        finally:
            self.stop()
            self.turns.wait(_LEAVE_S)
            self._screen.live = None

    def close(self) -> None:
        """Keep what was read and said, for the next time."""
        if self.model.session is not None:
            self.model.session.close()
        self.recorder.close()
        hint = resume_hint(self.recorder)
        if hint:
            self.say(hint)

    def opened(self, session: Session) -> None:
        """A model was opened. Called in the thread that opened it.

        Raises:
            RqchatError: it cannot take what was piped in.
        """
        if self._is_resumed:  # below its last answer the header would be in the way
            self.say(f"{model_title(session.model_name)} · {room_for(session.context_tokens)}")
            self._is_resumed = False
        else:
            plan, name = session.plan, session.model_name
            self.show(
                StartHeader(name, plan) if plan else RemoteHeader(name, session.context_tokens)
            )
        self.say("")
        if self._unanswered is not None:
            self.attachments.put_back(self._unanswered, session)
            self._unanswered = None
        if self._piped:
            self.say(self.attachments.add_all(self._piped[0].name, self._piped, session))
            self._piped = ()

    def recording(
        self, session: Session, request: TurnRequest
    ) -> AbstractContextManager[RecordedTurn]:
        """Within, the events of the answer are to be noted, so that it is saved as it comes."""
        turn, sampling = request.turn, request.sampling
        if request.is_aside:
            return self.recorder.aside(session, turn, sampling)
        return self.recorder.turn(session, turn, sampling, begun=request.begun)

    def answered(self, done: Done) -> None:
        """An answer is at its end."""
        self.last_done = done

    def changed(self, session: Session) -> None:
        """The conversation has grown, or was taken back or rewritten."""
        self.recorder.follow(session)

    def show_saved(self, saved: SavedConversation) -> None:
        """Where a saved conversation ended; a question without answer is at the prompt again."""
        from rqchat.ui.resumed_chat import show_resumed

        code_blocks = _code_block_count(saved.messages[:-2])
        show_resumed(self._screen, saved.record, saved.messages[-2:], code_blocks)
        if saved.pending is not None:
            if self.model.session is None:
                self._unanswered = saved.pending  # only the model can count its tokens
            else:
                self.attachments.put_back(saved.pending, self.model.session)
            self.type(saved.pending.text)
            self.say("the last question had no answer yet; Enter asks it again")

    def new_view(self, begun: str = "", *, recalls: bool = False) -> AnswerView:
        """A place on the screen for the next answer."""
        # Markdown takes a tenth of a second to import, which the prompt does not wait for
        from rqchat.ui.markdown import InChat
        from rqchat.ui.stream import AnswerView

        return AnswerView(
            self._screen,
            fold=self.fold_thoughts,
            begun=begun,
            recalls=recalls,
            summary=True,
            chat=InChat(_code_block_count(self.session().messages)),
        )

    def instruct(self, system: str | None) -> None:
        """Set or remove the instructions above the conversation.

        Raises:
            RqchatError: the model cannot be opened.
        """
        self.session().system = system

    def attach(self, item: Picture | Document) -> None:
        """Attach to the next message; answers `[Image 1: 640x480, 264 tokens]` or its like.

        Raises:
            RqchatError: it cannot be used, or the model, which counts the tokens, cannot be opened.
        """
        self.say(self.attachments.add(item, self.session()))
        if isinstance(item, Picture):
            self._screen.picture(item, self._pictures)

    def attach_picture(self, reference: str) -> None:
        """Attach the picture that a path or a URL names.

        Raises:
            RqchatError: it cannot be had or used.
        """
        self.attach(self._reader().picture(reference))

    def attach_mentioned(self, text: str) -> None:
        """Attach the pictures that a question names by their paths, but for those that are there.

        Raises:
            RqchatError: one does not exist or cannot be used.
        """
        for path in mentioned_pictures(text):
            picture = self._reader().picture(str(path))
            place = self.attachments.place_of(picture, self.session())
            if place:
                self.say(f"[Image {place}: {path.name} is in the conversation already]")
            else:
                self.attach(picture)

    def attach_files(self, reference: str, pages: PageRanges | None = None) -> None:
        """Attach the texts and pictures that a path, a folder, a pattern or a URL names, of PDF
        files those `pages`.

        Raises:
            RqchatError: it cannot be had or used.
        """
        items = self._reader(pages).read(reference)
        if pages is not None:
            check_pages_used(pages, items)
        if len(items) == 1:
            self.attach(items[0])
        else:
            self.say(self.attachments.add_all(reference, items, self.session()))

    def _reader(self, pages: PageRanges | None = None) -> ReferenceReader:
        show = partial(show_input_event, self._screen)
        return ReferenceReader(show, offline=self.model.settings.offline, pages=pages)

    def show(self, renderable: Renderable) -> None:
        """A table that is no answer."""
        self._screen.aside(renderable)

    def say(self, text: str, style: str = "note") -> None:
        """One line that is no answer."""
        self._screen.note(text, style)

    def type(self, text: str) -> None:
        """Put `text` in front of what is typed."""
        if self.editor is not None:
            self.editor.give_back(text)

    def report(self, error: Exception) -> None:
        """Say what went wrong; the chat goes on."""
        if isinstance(error, ReaderGoneError):
            return
        self._screen.error(str(error))
        if not isinstance(error, RqchatError):
            self._screen.bug(error)
            self._screen.error("this is a bug in rqchat; the chat goes on")

    def status(self, columns: int) -> str:
        """The status line, for so many columns."""
        session = self.model.session
        if session is None:
            return "" if self._screen.live else self.model.loading
        rate = self.last_done.timing.decode_tokens_per_s if self.last_done else 0.0
        if self.turns.is_busy and self.turns.view is not None:
            rate = self.turns.view.deltas_per_s
        return chat_status(
            session.model_name,
            session.plan,
            self.turns.used_tokens(session),
            session.used_bytes,
            rate,
            columns,
            server_tokens=session.context_tokens,
            attached_tokens=0 if self.turns.is_busy else self.attachments.tokens,
        )

    def heading(self, columns: int) -> Fragments:
        """How loading goes, where the header will stand; nothing once that is there."""
        model = self.model
        if not model.is_loading:
            return []
        return load_header(model.settings.model, model.loading, model.loaded_share, columns)

    def attached(self) -> str:
        """What goes along with the next message, in a line; empty where that is nothing."""
        return "" if self.turns.is_busy else self.attachments.line()

    def must_wait(self, line: str) -> bool:
        """Whether `line` cannot be taken before the model is there and has answered."""
        is_at_work = self.turns.is_busy or self.model.is_pending
        return is_at_work and not self.commands.runs_at_once(line)

    def is_answering(self) -> bool:
        """Whether there is an answer that can be stopped."""
        return self.turns.is_busy

    def stop(self) -> None:
        """Stop the answer."""
        session = self.model.session
        if session is not None and self.turns.is_busy:
            session.interrupt()

    def failure(self) -> BaseException | None:
        """What ends the chat: the model cannot be opened."""
        return self.model.error

    def wake(self) -> None:
        """Tell the line editor that something has changed."""
        if self.editor is not None:
            self.editor.wake()

    def session(self) -> Session:
        """The session, waited for while the model loads.

        Raises:
            RqchatError: the model cannot be opened.
        """
        return self.model.wait()

    def _turn(self, editor: LineEditor) -> bool:
        """Read a line and do what it says; whether the chat goes on."""
        try:
            self._handle(editor.read())
            while self.turns.is_busy and not editor.is_live:
                self.turns.wait(0.1)  # without a timeout Ctrl-C would not be heard everywhere
        except EOFError:
            return False
        except KeyboardInterrupt:
            if not self.turns.is_busy:
                self.say("stopped")
            self.stop()
            self.turns.wait(_LEAVE_S)
            return not editor.interrupted()
        return True

    def _handle(self, line: str) -> None:
        turns = self.turns.begun
        try:
            if self.commands.is_command(line):
                self.commands.run(self, line)
            elif line and not self._attach_dropped(line):
                self.ask(plain(line))
        except EOFError:
            raise
        except Exception as error:
            if error is self.model.error:
                raise  # without a model there is nothing to go on with
            self.report(error)
        if line and self.turns.begun == turns:  # a turn ends with air of its own
            self.say("")

    def _attach_dropped(self, line: str) -> bool:
        """Attach a line that is nothing but existing files, as terminals paste dropped ones."""
        if not line.startswith(("/", "~", "'", '"', "file://")) or "\n" in line:
            return False
        try:
            paths = split_paths(line)
        except UsageError:
            return False
        # A question may begin with a path, so the line has to consist of files that exist
        if not all(os.path.isfile(path) for path in paths):  # False for names that are too long
            return False
        for path in paths:
            self.attach_files(str(path))
        return True

    def ask(self, text: str) -> None:
        """Ask; where the session does not take the turn, text and attachments come back."""
        self.session()  # what was piped in is attached once it is there
        try:
            self.attach_mentioned(text)
        except RqchatError:
            self.type(text)
            raise
        request = TurnRequest(
            "the last turn",
            self.attachments.turn(text),
            self.sampling,
            on_answered=self.attachments.clear,
            on_unanswered=lambda: self.type(text),
        )
        self.turns.start(request)


def _code_block_count(messages: Iterable[Message]) -> int:
    return sum(len(code_blocks(message.text)) for message in messages if message.role != "user")
