"""Settings: which layer wins, what a file may hold, and how it is shown and edited."""

from __future__ import annotations

import json
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from rqchat.cli import app_folders
from rqchat.cli.chat import run as chat_run
from rqchat.cli.commands.config_command import template
from rqchat.cli.setting_layers import KEYS, defaults, read_file
from rqchat.engine.settings import ChatSettings, SamplingSettings, Settings
from rqchat.errors import UsageError
from tests.cli.conftest import Run
from tests.cli.fake_session import FakeSession


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, session: FakeSession) -> Path:
    path = tmp_path / "config.toml"
    monkeypatch.setenv("RQCHAT_CONFIG", str(path))
    return path


LAYERED = """
model = "from-file"
kv-bits = 3
temperature = 1
top-k = 5
system = "Be brief."
[presets.exact]
model = "from-preset"
temperature = 0.0
think = true
"""


def test_each_layer_overrides_those_below_it(
    run: Run, session: FakeSession, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text(LAYERED)
    run("ask", "Hi")
    assert session.settings == Settings("from-file", kv_bits=3)
    assert session.asked[-1][1] == SamplingSettings(temperature=1.0, top_k=5)
    assert (session.system, session.thinking) == ("Be brief.", False)
    monkeypatch.setenv("RQCHAT_MODEL", "from-environment")
    run("ask", "Hi")
    assert session.settings == Settings("from-environment", kv_bits=3)
    run("ask", "--preset", "exact", "Hi")
    assert session.settings == Settings("from-preset", kv_bits=3)
    assert session.asked[-1][1] == SamplingSettings(temperature=0.0, top_k=5)
    assert session.thinking
    run("ask", "--preset", "exact", "-m", "flag", "--top-k", "0", "-s", "Be long.", "Hi")
    assert session.settings == Settings("flag", kv_bits=3)
    assert session.asked[-1][1] == SamplingSettings(temperature=0.0, top_k=0)
    assert session.system == "Be long."


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kv_bits = 4", "there is no key 'kv_bits'; did you mean kv-bits?"),
        ("zzz = 4", "'rqchat config show' lists the keys"),
        ("kv-bits = 7", "--kv-bits is 7; allowed are 2, 3"),
        ('kv-bits = "4"', "kv-bits is '4'; it takes a whole number"),
        ("offline = 1", "offline is 1; it takes true or false"),
        ("seed = true", "seed is True; it takes a whole number"),
        ("top-p = 2", "top-p is 2.0; it lies above 0"),
        ('vram = "lots"', "vram is 'lots'; write a size such as 24GiB"),
        ("[presets.a]\nmodle = 'x'", "preset a: there is no key 'modle'; did you mean model?"),
        ("presets = 3", "presets are tables"),
        ("model =", "cannot be read"),
        ("model = " + 1000 * "[", "cannot be read: it is nested too deep"),
        ("seed = " + 5000 * "9", "cannot be read: it holds a number with thousands of digits"),
        ("seed = 0x" + 5000 * "F", "cannot be read: it holds a number with thousands of digits"),
    ],
)
def test_what_a_file_may_not_hold_is_one_line(
    run: Run, session: FakeSession, config: Path, text: str, said: str
) -> None:
    config.write_text(text)
    result = run("ask", "Hi")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert str(config) in result.err
    assert said in result.err
    assert session.settings is None


def test_without_a_command_the_settings_are_shown(run: Run, config: Path) -> None:
    config.write_text('model = "from-file"')
    assert run("config") == run("config", "show")
    assert "from-file" in run("config").out


def test_an_unknown_preset_names_the_nearest(run: Run, config: Path) -> None:
    config.write_text(LAYERED)
    result = run("ask", "--preset", "exakt", "Hi")
    assert result.code == 2
    assert "there is no preset 'exakt'; did you mean exact?" in result.err


def test_show_says_where_each_value_comes_from(
    run: Run, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text(LAYERED)
    monkeypatch.setenv("RQCHAT_VRAM", "24GiB")
    shown = json.loads(run("config", "show", "--json", "--preset", "exact").out)
    assert list(shown) == [key.name for key in KEYS]
    assert shown["kv-bits"] == {"value": 3, "source": str(config)}
    assert shown["vram"] == {"value": 24 * 2**30, "source": "environment"}
    assert shown["temperature"] == {"value": 0.0, "source": "preset exact"}
    assert shown["top-p"] == {"value": 0.95, "source": "default"}
    rows = [line.split() for line in run("config", "show").out.splitlines()]
    assert ["top-k", "5"] in [row[:2] for row in rows]
    assert ["seed", "-", "default"] in rows
    assert ["cache-size", "16GiB", "default"] in rows


def test_every_setting_is_a_key() -> None:
    records = (Settings, SamplingSettings, ChatSettings)
    wanted = {field.name for record in records for field in fields(record)}
    assert {key.field for key in KEYS} == wanted == defaults().keys()


def test_the_template_holds_every_key_and_is_valid_when_uncommented(tmp_path: Path) -> None:
    assert tomllib.loads(template()) == {}
    lines = [line.removeprefix("# ") for line in template().splitlines() if " = " in line]
    lines = lines[: len(KEYS)]  # an example of a preset follows
    values = tomllib.loads("\n".join(lines))
    assert values.keys() == {key.name for key in KEYS}
    path = tmp_path / "one.toml"
    path.write_text("\n".join(lines))
    assert read_file(path).values.keys() == {key.field for key in KEYS}
    path.write_text(template())
    assert read_file(path).values == {}


def test_path_follows_the_platform_and_the_variable(
    run: Run, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("config", "path").out == f"{config}\n"
    monkeypatch.delenv("RQCHAT_CONFIG")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/somewhere")
    assert app_folders.config_file() == Path("/somewhere/rqchat/config.toml")


def _editor(tmp_path: Path, body: str) -> str:
    script = tmp_path / "editor.py"
    script.write_text(f"import sys, pathlib\nfile = pathlib.Path(sys.argv[1])\n{body}")
    return f"{sys.executable} {script}"


def test_edit_makes_the_file_and_checks_it(
    run: Run, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = "old = file.read_text()\nfile.write_text(old + 'kv-bits = 3\\n')"
    monkeypatch.setenv("VISUAL", _editor(tmp_path, body))
    assert run("config", "edit").err.endswith("config.toml is in order\n")
    assert config.read_text() == template() + "kv-bits = 3\n"
    monkeypatch.setenv("VISUAL", _editor(tmp_path, "file.write_text('kv-bist = 3')"))
    result = run("config", "edit")
    assert result.code == 2
    assert "did you mean kv-bits?" in result.err
    monkeypatch.setenv("VISUAL", _editor(tmp_path, "sys.exit(3)"))
    result = run("config", "edit")
    assert (result.code, result.err) == (1, "rqchat: the editor ended with exit code 3\n")
    monkeypatch.setenv("VISUAL", "/nowhere/editor")
    assert "cannot be edited: No such file" in run("config", "edit").err


def test_no_editor_is_opened_without_a_terminal(
    run: Run, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", "'nano")
    assert 'EDITOR is "\'nano", which is no command' in run("config", "edit").err
    monkeypatch.setenv("EDITOR", " ")
    result = run("config", "edit", stdin=b"")
    assert (result.code, result.out) == (2, "")
    assert "name one in EDITOR" in result.err


def test_a_file_may_begin_with_a_byte_order_mark(
    run: Run, session: FakeSession, config: Path
) -> None:
    config.write_bytes("\ufefftemperature = 0.5".encode())
    assert run("ask", "Hi").code == 0
    assert session.asked[0][1].temperature == 0.5


def test_a_broken_file_can_still_be_edited_and_found(run: Run, config: Path) -> None:
    config.write_text("nonsense")
    assert run("config", "path").code == 0
    assert run("doctor").code == 0
    assert run("plan", "--vram", "24GiB").code == 2


def test_the_chat_is_set_by_the_file_too(
    run: Run, session: FakeSession, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text('think = true\nkeys = "vi"\nsystem = "Be brief."\ntemperature = 0.5')
    started: list[tuple[ChatSettings, SamplingSettings]] = []

    def run_chat(
        settings: Settings, chat_settings: ChatSettings, sampling: SamplingSettings, saved: object
    ) -> None:
        started.append((chat_settings, sampling))

    monkeypatch.setattr(chat_run, "run_chat", run_chat)
    assert run().code == 0
    chat_settings = ChatSettings(system="Be brief.", think=True, keys="vi")
    assert started == [(chat_settings, SamplingSettings(temperature=0.5))]
    config.write_text('keys = "nano"')
    assert "keys is 'nano'; allowed are emacs, vi" in run().err


def test_a_settings_file_that_cannot_be_reached_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(UsageError, match="cannot be read: .*Permission denied"):
        read_file(tmp_path / "config.toml")
