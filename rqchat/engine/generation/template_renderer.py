"""Runs chat templates, in this process or, as a program of its own, within fixed limits.

    python -P template_renderer.py        reads a job a line, writes a result a line

A template is a program that comes with a download. Jinja's sandbox keeps it from files and Python's
insides, but not from running for ever or from taking all memory. What a template gets is what
transformers 5.23 gives it (`utils/chat_template_utils.py`, which takes 1.4 s of processor time to
import, and this file 0.15 s); the tests compare the two. It imports jinja2 alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes, pass_eval_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import EvalContext
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

__all__ = ["MOST_BYTES", "MOST_CPU_S", "Renderer"]

MOST_CPU_S = 3
"""Processor time of one rendering; Google's templates take milliseconds."""
MOST_BYTES = 2**29
"""Address space of the program."""
_MOST_CHARACTERS = 2**22  # of a prompt in which stand-ins stand for all that people wrote


class Renderer:
    """A compiled template."""

    def __init__(self, template: str) -> None:
        """Compiles it.

        Raises:
            Exception: whatever Jinja, or Python on what Jinja made of it, has to say.
        """
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        known: dict[str, Any] = {
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
            "dict": _Dictionaries(),
            "namespace": _PlainNamespace,
        }
        environment.globals.update(known)
        self._compiled = environment.from_string(template)

    def render(self, values: Mapping[str, Any]) -> str:
        """What the template makes of `values`.

        Raises:
            Exception: whatever it raises.
        """
        pieces, characters = [], 0
        for piece in self._compiled.generate(**values):
            pieces.append(piece)
            characters += len(piece)
            if characters > _MOST_CHARACTERS:
                raise ValueError(f"it writes more than {_MOST_CHARACTERS:,} characters")
        return "".join(pieces)


class _GenerationTag(Extension):
    """`{% generation %}`, which marks answers for training: here what is within it alone."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        """The tag as a call of a macro that returns its body."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_body")
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    @pass_eval_context
    def _body(self, context: EvalContext, caller: Macro) -> str:
        return str(caller())


class _Dictionaries:
    """`dict`, without what a class could be asked for."""

    def __call__(self, *args: Any, **values: Any) -> dict[Any, Any]:
        return dict(*args, **values)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        """As `dict.fromkeys`."""
        return dict.fromkeys(*args)


class _PlainNamespace(Namespace):
    """`namespace`, without names that begin with an underscore."""

    def __init__(*args: Any, **values: Any) -> None:  # without `self`, so that it may be a value
        own, *given = args
        found = dict(*given, **values)
        for name in found:
            _check_name(name)
        Namespace.__init__(own, found)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace cannot hold {name!r}")


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own would escape what HTML reserves."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: Any) -> NoReturn:
    raise TemplateError(str(message))


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _limit_cpu() -> None:
    """Lets this process run for `MOST_CPU_S` more; SIGXCPU ends it after that."""
    used_s = sum(os.times()[:2])
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used_s) + 1 + MOST_CPU_S, most))


def _limit_all() -> None:
    _limit_cpu()
    none = (resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0)
    for kind, most in ((resource.RLIMIT_AS, MOST_BYTES), *none):
        # macOS refuses some of them: the processor time still holds
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (most, most))


def _result(renderer: Renderer, values: Mapping[str, Any]) -> dict[str, str]:
    try:
        return {"text": renderer.render(values)}
    except MemoryError:
        return {"error": f"it takes more than {MOST_BYTES >> 20} MiB"}
    except RecursionError:
        return {"error": "it calls itself too often"}
    except TemplateError as error:
        return {"error": str(error)[:1000]}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:1000]}


def _serve() -> None:
    """Takes the template from the first line of standard input, and values from every other."""
    template = json.loads(sys.stdin.readline())
    _limit_all()
    renderer: Renderer | None = None
    for line in sys.stdin:
        _limit_cpu()
        try:
            renderer = renderer or Renderer(template)
        except BaseException as error:
            result = {"error": f"{type(error).__name__}: {error}"[:1000]}
        else:
            result = _result(renderer, json.loads(line))
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
