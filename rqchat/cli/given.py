"""From a command's options to its settings."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from rqchat.cli.layers import layered
from rqchat.engine.settings import Manner, SamplingSettings, Settings
from rqchat.errors import UsageError

__all__ = ["Command", "Given", "Group", "taking"]

Command = Callable[..., None]
Group = Mapping[str, Any]  # field of the settings -> its option


class Given:
    """What was given on the command line, with what the other layers say below it."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        """`values` are by the names of the settings' fields; None and False are not given."""
        self._values = _given(values)
        self._preset = self._values.pop("preset", None)

    def has(self, name: str) -> bool:
        """Whether the command line itself sets `name`."""
        return name in self._values

    def settings(self, **more: Any) -> Settings:
        """How to pick, plan and load a model; `more` stands beside what was given.

        Raises:
            UsageError: a value is out of range; see `layers.layered`.
        """
        return Settings(**self._of(Settings, more))

    def sampling(self) -> SamplingSettings:
        """How answers are drawn.

        Raises:
            UsageError: a value is out of range; see `layers.layered`.
        """
        values = self._of(SamplingSettings, {})
        try:
            return SamplingSettings(**values)
        except UsageError as error:  # of an option: the settings file has been checked before
            raise UsageError(f"--{error}") from None

    def manner(self) -> Manner:
        """How answers begin.

        Raises:
            UsageError: see `layers.layered`.
        """
        return Manner(**self._of(Manner, {}))

    def _of(self, record: type, more: Mapping[str, Any]) -> dict[str, Any]:
        found = layered({**self._values, **_given(more)}, self._preset)
        return {field.name: found[field.name].value for field in fields(record)}


def taking(*groups: Group) -> Callable[[Command], Command]:
    """Gives a command the options of `groups`; it gets them as its one parameter `given`."""
    options = {name: option for group in groups for name, option in group.items()}

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        shown = [p for p in signature.parameters.values() if p.name != "given"]
        shown += [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
            for name, option in options.items()
        ]

        @functools.wraps(command)
        def run(**values: Any) -> None:
            taken = {name: values.pop(name) for name in options}
            command(**values, given=Given(taken))

        run.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]
        return run

    return decorate


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without options that were left out and flags that were not set."""
    return {name: v for name, v in values.items() if v is not None and v is not False}
