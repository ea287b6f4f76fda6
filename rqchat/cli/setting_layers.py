"""Where a setting comes from: defaults, the settings file, the environment, a preset, the flags.

Each of these overrides those before it. A preset is a table `[presets.NAME]` of the file that
`--preset NAME` asks for, so it stands above the environment.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rqchat.cli import app_folders
from rqchat.cli.hints import did_you_mean
from rqchat.engine.foreign import border
from rqchat.engine.settings import (
    ChatSettings,
    SamplingSettings,
    Settings,
    environment_values,
    parse_size_bytes,
)
from rqchat.errors import UsageError

__all__ = ["KEYS", "Key", "Sourced", "defaults", "format_value", "layered", "read_file"]

_PRESETS = "presets"
_KINDS = {str: "text in quotes", int: "a whole number", float: "a number", bool: "true or false"}


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the settings file.

    Attributes:
        name: as the file has it, which is the option without its dashes.
        field: of `Settings`, `SamplingSettings` or `ChatSettings`.
        example: a value that it could have.
        meaning: one line.
    """

    name: str
    field: str
    example: str | int | float
    meaning: str

    @property
    def kind(self) -> type:
        """Type of the value."""
        return type(self.example)


@dataclass(frozen=True, slots=True)
class Sourced:
    """A value and the layer that it comes from, in words."""

    value: Any
    source: str


KEYS = (
    Key(
        "model", "model", "google/gemma-4-31B-it", "hub id, folder, GGUF file, 'pocket', or 'auto'"
    ),
    Key("server", "server", "http://localhost:8000/v1", "address of a server that has the model"),
    Key("key-file", "key_file", "~/.config/rqchat/key", "holds the key that this server asks for"),
    Key("weights", "weights", "int4", "precision of the weights"),
    Key("kv-bits", "kv_bits", 4, "bits of the KV cache"),
    Key("head-bits", "head_bits", 8, "bits of embedding and output head"),
    Key("prefer", "prefer", "quality", "what the plan gives up last"),
    Key("context", "context_tokens", 32_768, "tokens to hold"),
    Key("image-tokens", "image_tokens", 280, "most tokens per picture"),
    Key("vram", "vram_bytes", "24GiB", "size of the card to plan for, such as '24GiB'"),
    Key("device", "device", "cuda:1", "auto, cpu, mps, cuda or cuda:N"),
    Key("offline", "offline", True, "never touch the network"),
    Key("may-download", "may_download", True, "download models without asking"),
    Key("no-cache", "no_cache", True, "do not keep the KV caches of long documents on disk"),
    Key("no-log", "no_log", True, "save nothing: no conversation, no line, no document"),
    Key("cache-size", "cache_bytes", "16GiB", "what these may take together, such as '16GiB'"),
    Key("temperature", "temperature", 0.7, "0 is greedy"),
    Key("top-p", "top_p", 0.95, "nucleus mass"),
    Key("top-k", "top_k", 64, "candidates kept"),
    Key("min-p", "min_p", 0.05, "least share of the best one's probability"),
    Key("seed", "seed", 1, "makes sampled answers repeatable"),
    Key("max-tokens", "max_tokens", 500, "longest answer"),
    Key("repetition-penalty", "repetition_penalty", 1.1, "above 1, latest words come less likely"),
    Key("system", "system", "Answer briefly.", "instructions that stand above the chat"),
    Key("think", "think", True, "let the model think first"),
    Key("keys", "keys", "vi", "emacs or vi, where you type in the chat"),
    Key("theme", "theme", "light", "colours: dark, light, or auto"),
    Key("pictures", "pictures", "blocks", "auto, kitty, iterm2, sixel, blocks or off"),
)
_BY_NAME = {key.name: key for key in KEYS}
_SIZES = ("vram_bytes", "cache_bytes")


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """What the settings file holds, by field: its own values and those of each preset."""

    path: Path | None
    values: Mapping[str, Any]
    presets: Mapping[str, Mapping[str, Any]]


def defaults() -> dict[str, Any]:
    """Every field's value where nothing is set."""
    records = (Settings(), SamplingSettings(), ChatSettings())
    return {
        field.name: getattr(record, field.name) for record in records for field in fields(record)
    }


def layered(given: Mapping[str, Any], preset: str | None) -> dict[str, Sourced]:
    """The value of every field with its source; `given` are the values of flags.

    Raises:
        UsageError: the file or the environment holds what makes no sense; no such preset.
    """
    file = read_file(app_folders.config_file())
    chosen: Mapping[str, Any] = {}
    if preset is not None:
        if preset not in file.presets:
            known = ", ".join(file.presets)
            others = f"; there is {known}" if known else "; 'rqchat config edit' makes presets"
            hint = did_you_mean(preset, file.presets) or others
            raise UsageError(f"there is no preset {preset!r}{hint}")
        chosen = file.presets[preset]
    # Later ones override earlier ones
    layers: tuple[tuple[str, Mapping[str, Any]], ...] = (
        ("default", defaults()),
        (str(file.path), file.values),
        ("environment", environment_values()),
        (f"preset {preset}", chosen),
        ("command line", given),
    )
    return {
        name: Sourced(value, source) for source, values in layers for name, value in values.items()
    }


def read_file(path: Path | None) -> SettingsFile:
    """The values and presets of the settings file; none where there is no file.

    Raises:
        UsageError: it is not TOML, has an unknown key, or a value that makes no sense.
    """
    with border(lambda cause: UsageError(f"{path} cannot be read: {cause}")):
        if path is None or not path.is_file():
            return SettingsFile(path, {}, {})
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        presets = table.pop(_PRESETS, {})
        if not isinstance(presets, dict) or not all(isinstance(p, dict) for p in presets.values()):
            raise UsageError(f"{path}: presets are tables, such as [presets.quick]")
        return SettingsFile(
            path,
            _checked(table, f"{path}"),
            {name: _checked(preset, f"{path}, preset {name}") for name, preset in presets.items()},
        )


def format_value(key: Key, value: object) -> str:
    """A value as it is written in the settings file; a dash where there is none."""
    if value is None:
        return "-"
    if key.field in _SIZES and isinstance(value, int):
        return f"{value / 2**30:g}GiB" if value % 2**20 == 0 else str(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _checked(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The values of one table by field, each checked for its type and range."""
    values = {}
    for name, value in table.items():
        key = _BY_NAME.get(name)
        if key is None:
            hint = did_you_mean(name, _BY_NAME) or "; 'rqchat config show' lists the keys"
            raise UsageError(f"{where}: there is no key {name!r}{hint}")
        values[key.field] = _value(key, value, where)
    try:
        # The records check their own ranges; here the file is named that holds the bad value
        for record in (Settings, SamplingSettings, ChatSettings):
            own = {field.name for field in fields(record)}
            record(**{name: value for name, value in values.items() if name in own})
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    return values


def _value(key: Key, value: Any, where: str) -> Any:
    if key.kind is float and type(value) is int:
        value = float(value)
    if type(value) is not key.kind:  # no isinstance: True is an int, and no number of tokens
        raise UsageError(f"{where}: {key.name} is {value!r}; it takes {_KINDS[key.kind]}")
    if key.field in _SIZES:
        return parse_size_bytes(str(value), name=f"{where}: {key.name}")
    return value
