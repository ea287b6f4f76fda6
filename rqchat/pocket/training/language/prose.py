"""English prose that every Python installation carries, so that training can be rerun anywhere.

Training text: the language reference (`pydoc_data.topics`), docstrings of the standard library and
of installed packages, and package descriptions. Licences are never in it: they are the held-out
prose that the evaluation reads.
"""

from __future__ import annotations

import ast
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

__all__ = ["collect_training_prose", "held_out_prose"]

_MINIMUM_CHARACTERS = 400
_LICENCE = re.compile(r"licen[cs]e|copying|copyright", re.IGNORECASE)


def collect_training_prose(limit_characters: int) -> list[str]:
    """Texts of at least 400 characters each, `limit_characters` in all, in a fixed order."""
    texts: list[str] = []
    total = 0
    for text in _sources():
        # Licences are what the evaluation reads: none of their sentences may be known.
        if len(text) < _MINIMUM_CHARACTERS or _LICENCE.search(text):
            continue
        texts.append(text)
        total += len(text)
        if total >= limit_characters:
            break
    return texts


def held_out_prose() -> list[tuple[str, str]]:
    """(name, text) of the licences found on this machine, none of which is in the training text."""
    folders = [Path("/usr/share/common-licenses"), Path(sysconfig.get_paths()["purelib"])]
    found: dict[str, str] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            name = path.name.upper()
            licence = folder.name == "common-licenses" or name.startswith(("LICENSE", "COPYING"))
            if licence and path.is_file():
                text = path.read_text(encoding="utf-8", errors="replace")
                if len(text) > 4000:
                    found.setdefault(text[:200], text)
    return [(text.strip().splitlines()[0].strip(), text) for text in found.values()]


def _sources() -> Iterator[str]:
    yield from (_tidy(topics[name]) for name in sorted(topics))
    paths = sysconfig.get_paths()
    site = Path(paths["purelib"])
    for metadata in sorted(site.glob("*.dist-info/METADATA")):
        yield _tidy(metadata.read_text(encoding="utf-8", errors="replace").partition("\n\n")[2])
    for root in (Path(paths["stdlib"]), site):
        for path in sorted(root.rglob("*.py")):
            if "test" in path.as_posix() or (root != site and "site-packages" in path.parts):
                continue
            yield from _docstrings(path)


def _docstrings(path: Path) -> Iterator[str]:
    try:
        # Other people's code warns of its own escapes when it is parsed.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, RecursionError):
        return
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            yield _tidy(text)


def _tidy(text: str) -> str:
    return re.sub(r"\n{3,}", "\n\n", text).strip()
