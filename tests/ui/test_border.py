"""Nothing that a terminal acts on comes through any door of the screen, however it is dressed."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin
from rich.text import Text

from rqchat.engine.conversation import ContextPart, Message
from rqchat.engine.conversations.receipt import Receipt
from rqchat.engine.conversations.records import Finding as FoundSession
from rqchat.engine.conversations.records import SessionRecord, TurnRecord
from rqchat.engine.events import LoadProgress, ModelFacts, Notice, TextDelta, ThoughtDelta
from rqchat.engine.inputs.pictures import read_picture
from rqchat.engine.planning.devices import DeviceInfo
from rqchat.engine.planning.plan import MemoryPlan
from rqchat.engine.settings import SamplingSettings
from rqchat.ui.console import Drawing, Screen, Stream, write_text
from rqchat.ui.finding import Finding
from rqchat.ui.looks.start_header import StartHeader
from rqchat.ui.looks.thumbnail import make_thumbnail
from rqchat.ui.resumed_chat import show_resumed
from rqchat.ui.saved_conversations import conversation_view, findings_list, sessions_table
from rqchat.ui.stream import AnswerView
from rqchat.ui.tables import context_table, findings_table, help_table, settings_table
from tests.cli.fake_session import PLAN, FakeSession
from tests.screen_oracle import FOREIGN_STYLE, MISCHIEF, foreign_sequences, own_drawings
from tests.ui.test_screen import two_terminals

Door = Callable[[Screen, str], None]


def _session(text: str) -> SessionRecord:
    return SessionRecord(text, text, text, "chat", text, text, text, 0.0, 0.0, 1)


def _turn(text: str) -> TurnRecord:
    facts = ModelFacts(text, text, 0.0, text)
    receipt = Receipt.begin(FakeSession(model_name=text, facts=facts), SamplingSettings())
    return TurnRecord(1, 1, 0.0, text, text, text, "interrupted", receipt, ())


def _answer(screen: Screen, text: str, **options: Any) -> None:
    view = AnswerView(screen, **options)
    for piece in _pieces(text):
        view.show(ThoughtDelta(piece))
    view.show(Notice(text))
    view.show(LoadProgress(text, 1, 2))
    for piece in _pieces(text):
        view.show(TextDelta(piece))
    view.close()


def _pieces(text: str) -> list[str]:
    """As tokens come: an escape character apart from what follows it."""
    cuts = sorted(random.Random(len(text)).choices(range(len(text) + 1), k=12))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def _plan(text: str) -> MemoryPlan:
    return replace(PLAN, device=DeviceInfo(text, 9, 5, text))


def _bug(screen: Screen, text: str) -> None:
    try:
        raise ValueError(text)
    except ValueError as error:
        screen.bug(error)


DOORS: dict[str, Door] = {
    "an answer": _answer,
    "an answer that is no Markdown": lambda s, t: _answer(s, t, markdown=False),
    "an answer with a folded thought": lambda s, t: _answer(s, t, fold=True),
    "raw": lambda s, t: s.answer_raw(t),
    "a note": lambda s, t: s.note(t),
    "a warning": lambda s, t: s.warning(t),
    "an error": lambda s, t: s.error(t),
    "a bug": _bug,
    "a status": lambda s, t: s.status(t),
    "a draft": lambda s, t: s.draft(t),
    "a block": lambda s, t: s.block(Text(t)),
    "a link": lambda s, t: s.block(Text(t, style=f"link ab:{t[:1]}")),
    "code": lambda s, t: s.code(Text(t)),
    "redrawn": lambda s, t: s.redraw([t]),
    "a table": lambda s, t: s.table(settings_table([(t, t, t)])),
    "findings": lambda s, t: s.table(findings_table([Finding(t, "broken", t, t)])),
    "the context": lambda s, t: s.aside(context_table([ContextPart("document", t, 1)], 2)),
    "help": lambda s, t: s.aside(help_table([(t, [(t, t)])])),
    "a list of conversations": lambda s, t: s.table(sessions_table([_session(t)])),
    "found": lambda s, t: s.table(findings_list([FoundSession(_session(t), 1, t)])),
    "a conversation": lambda s, t: s.table(conversation_view(_session(t), [_turn(t)])),
    "the header": lambda s, t: s.aside(StartHeader(t, _plan(t))),
    "resumed": lambda s, t: show_resumed(
        s, _session(t), [Message("user", t), Message("assistant", t)]
    ),
}


class _Prompt:
    """A prompt to write above: what it gets goes to the terminal through `write_text` as well."""

    def put(self, stream: Stream, text: str | Drawing) -> None:
        write_text(sys.stdout, text)

    def draw(self, text: str, style: str, mark: str = "") -> None:
        sys.stdout.write(text)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("has_prompt", [False, True])
def test_only_our_own_styles_come_through(
    monkeypatch: pytest.MonkeyPatch, door: str, has_prompt: bool
) -> None:
    streams = two_terminals(monkeypatch)
    monkeypatch.delenv("NO_COLOR")
    alone = MISCHIEF if door == "an answer" and not has_prompt else ()
    for payload in (*alone, " ".join(MISCHIEF), "\n\n".join(MISCHIEF)):
        screen = Screen(width=70)
        screen.live = _Prompt() if has_prompt and door != "redrawn" else None
        DOORS[door](screen, f"before {payload} after")
        screen.clear_status()
        written = "".join(stream.getvalue() for stream in streams)
        if door == "redrawn":  # it was drawn before, and so its styles stay
            written = written.replace(FOREIGN_STYLE, "")
        found = foreign_sequences(written)
        assert not found, (payload, found)
        assert "before" in written or door in ("a draft", "a list of conversations")
        for stream in streams:
            stream.truncate(0)
            stream.seek(0)


@pytest.mark.parametrize(
    ("protocol", "environment"),
    [
        ("kitty", {"KITTY_WINDOW_ID": "1"}),
        ("kitty", {"TERM": "xterm-kitty"}),
        ("iterm2", {"TERM_PROGRAM": "iTerm.app"}),
        ("iterm2", {"TERM_PROGRAM": "WezTerm", "TERM": "wezterm"}),
        ("sixel", {"TERM": "foot"}),
        ("blocks", {"TERM": "xterm-256color"}),
        ("blocks", {"KITTY_WINDOW_ID": "1", "TMUX": "/a,1,0", "TERM": "tmux-256color"}),
        ("off", {"KITTY_WINDOW_ID": "1", "NO_COLOR": "1"}),
        ("off", {"TERM": "dumb"}),
        ("off", {"TERM": "linux"}),
    ],
)
@pytest.mark.parametrize("has_prompt", [False, True])
def test_of_a_picture_only_its_pixels_come_through(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    protocol: str,
    environment: dict[str, str],
    has_prompt: bool,
) -> None:
    streams = two_terminals(monkeypatch)
    for name in ("NO_COLOR", "KITTY_WINDOW_ID", "TMUX", "STY", "TERM_PROGRAM", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    screen = Screen(width=70)
    screen.live = _Prompt() if has_prompt else None
    picture = read_picture(_mischievous_picture(tmp_path))
    screen.picture(picture, "auto")
    written = "".join(stream.getvalue() for stream in streams)
    rest, drawings = own_drawings(written)
    assert not foreign_sequences(rest)
    assert "owned" not in written
    if protocol in ("kitty", "iterm2", "sixel"):
        small = make_thumbnail(picture, 69, cell=(10, 20))
        rgb = small.rgb
        if protocol == "sixel":  # which counts from 0 to 100
            rgb = bytes(round(value * 100 / 255) for value in rgb)
        assert drawings == [(small.width, small.height, rgb)]
        assert (small.columns, small.rows, rest) == (24, 8, "\n")
    else:
        assert not drawings
        rows = rest.splitlines()
        assert len(rows) == (8 if protocol == "blocks" else 0)
        assert all(row.count("▀") == 24 for row in rows)
    screen.picture(picture, "off")
    assert "".join(stream.getvalue() for stream in streams) == written


def _mischievous_picture(folder: Path) -> Path:
    """150 x 100 pixels, and all the text that a PNG has room for."""
    notes, path = PngImagePlugin.PngInfo(), folder / "a \x1b]0;owned\x07.png"
    for number, text in enumerate(MISCHIEF):
        notes.add_itxt(f"owned{number}", text.encode("utf-8", "replace").decode())
    image = Image.linear_gradient("L").resize((150, 100)).convert("RGB")
    image.save(path, pnginfo=notes, icc_profile=b"\x1b]0;owned\x07", exif=b"Exif\0\0owned")
    return path
