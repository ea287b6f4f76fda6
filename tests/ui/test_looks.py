"""The start header at every width, and the two themes."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.cells import cell_len

from rqchat.engine.planning.devices import DeviceInfo
from rqchat.engine.planning.memory import MemoryBytes
from rqchat.engine.planning.plan import MemoryPlan
from rqchat.ui.console import Screen
from rqchat.ui.looks.start_header import StartHeader, load_header
from rqchat.ui.looks.theme import DARK, LIGHT, theme_of
from tests.cli.fake_session import CANDIDATE, PLAN
from tests.ui.test_screen import two_terminals

GIB = 2**30
USED = MemoryBytes(17 * GIB, 4 * GIB, GIB, GIB, GIB // 2)
CARD = replace(
    PLAN,
    device=DeviceInfo("NVIDIA GeForce RTX 4090", 24 * GIB, 24 * GIB, "a test"),
    chosen=replace(
        CANDIDATE, weights="int4", weight_bits=4, kv_bits=6, context_tokens=262_144, bytes=USED
    ),
)
NAME = "google/gemma-4-31B-it"


def header(monkeypatch: pytest.MonkeyPatch, columns: int, plan: MemoryPlan = CARD) -> list[str]:
    """Its rows on a terminal without colours."""
    _, err = two_terminals(monkeypatch)
    Screen(width=columns).aside(StartHeader(NAME, plan))
    said = err.getvalue().replace("\x1b[1m", "").replace("\x1b[2m", "").replace("\x1b[0m", "")
    assert "\x1b" not in said
    return said.splitlines()


def test_the_header_says_what_is_loaded_and_for_how_much_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head, bar, legend, room = header(monkeypatch, 80)
    assert head.startswith("rqchat 0.")
    assert head.endswith("   Gemma 4 31B · 4-bit weights · 6-bit KV        RTX 4090 · 24.0 GiB")
    assert (len(bar), bar.count("█"), bar.count("▓"), bar.count("▒")) == (80, 56, 17, 5)
    assert legend == "█ weights 17.0 GiB   ▓ KV 5.0 GiB   ▒ work 1.5 GiB   ░ free 512 MiB"
    assert room.startswith("room for 262,144 tokens, about 600 pages  ")
    assert room.endswith("  /help · Ctrl-D leaves")
    assert len(room) == 80


def test_what_others_use_is_no_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = replace(CARD, device=replace(CARD.device, total_bytes=48 * GIB))
    _, bar, *legend, _ = header(monkeypatch, 100, shared)
    assert 49 <= bar.count("·") <= 51
    assert "in use 24.0 GiB" in " ".join(legend)


@pytest.mark.parametrize("columns", [14, 40, 80, 100, 300])
def test_no_row_of_the_header_is_too_wide(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    rows = header(monkeypatch, columns)
    text = load_header(NAME, "loading weights 50 % of 17.0 GiB", 0.5, columns)
    load = "".join(part for _, part in text).splitlines()
    assert max(map(cell_len, rows)) <= min(columns, 100)
    assert max(map(cell_len, load)) <= min(columns, 100)
    assert load[1].count("█") == load[1].count("░") == min(columns, 100) // 2
    words = " ".join(" ".join(rows).split())
    if columns >= 40:
        for said in ("Gemma 4 31B", "RTX 4090", "weights 17.0 GiB", "about 600 pages", "Ctrl-D"):
            assert said in words


def test_a_stream_without_such_characters_gets_others(monkeypatch: pytest.MonkeyPatch) -> None:
    two_terminals(monkeypatch)
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stderr", io.TextIOWrapper(raw, "ascii", line_buffering=True))
    Screen(width=80).aside(StartHeader(NAME, CARD))
    said = raw.getvalue().decode("ascii")
    assert f"\n{'#' * 56}{'=' * 17}{'+' * 5}--\n" in said
    assert "Gemma 4 31B - 4-bit weights" in said and "?" not in said


@pytest.mark.parametrize(
    ("setting", "variable", "told", "expected"),
    [
        ("auto", None, None, DARK),
        ("auto", None, "15;0", DARK),
        ("auto", None, "0;15", LIGHT),
        ("auto", None, "0;default;15", LIGHT),
        ("auto", None, "12;8", DARK),
        ("auto", None, "nonsense", DARK),
        ("auto", "light", "15;0", LIGHT),
        ("auto", "dark", "0;15", DARK),
        ("light", "dark", "15;0", LIGHT),
        ("dark", None, "0;15", DARK),
    ],
)
def test_the_theme_is_as_asked_or_as_the_terminal_tells(
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
    variable: str | None,
    told: str | None,
    expected: object,
) -> None:
    for name, value in (("RQCHAT_THEME", variable), ("COLORFGBG", told)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert theme_of(setting) is expected


def test_both_themes_style_the_same_and_no_colour_lies_behind_text_of_any_colour() -> None:
    assert DARK.styles.keys() == LIGHT.styles.keys()
    for theme in (DARK, LIGHT):
        for style in theme.styles.values():
            assert " on #" not in style or "#" in style.partition(" on ")[0]
