"""What a chat begins with: program, model, device, where the memory goes, and for how much text.

While the model loads, the same place shows the load.
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from rqchat import __version__
from rqchat.engine.planning.known_models import known_model
from rqchat.engine.planning.plan import MemoryPlan
from rqchat.engine.remote.address import parse_address, shown_model
from rqchat.engine.sizes import format_bytes
from rqchat.ui.looks.bars import progress_bar, share_cells
from rqchat.ui.text import MOST_COLUMNS, format_count, one_row, safe_line

__all__ = [
    "HELP_HINT",
    "Fragments",
    "RemoteHeader",
    "StartHeader",
    "load_header",
    "model_title",
    "pages",
    "room_for",
]

HELP_HINT = "/help · Ctrl-D leaves"
_PAGE_TOKENS = 437  # 262,144 tokens of English are some 600 printed pages
_PROGRAM = f"rqchat {__version__}"
# Of weights, cache, work, what others use, and free; without colours they tell the parts apart
_COLOURED, _GLYPHS = "━━━━─", "█▓▒·░"
Fragments = list[tuple[str, str]]


class StartHeader:
    """Model, device and memory of a chat, for any width.

    Args:
        model_name: a hub id, a folder, or `pocket`.
        plan: what was loaded.
    """

    def __init__(self, model_name: str, plan: MemoryPlan) -> None:
        self._model, self._plan = model_title(model_name), plan

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns = min(options.max_width, MOST_COLUMNS)
        has_colours = console.color_system is not None and not console.no_color
        glyphs = _COLOURED if has_colours else _GLYPHS
        chosen = self._plan.chosen
        formats = f"{chosen.weight_bits}-bit weights · {chosen.kv_bits}-bit KV"
        model = Text.assemble((self._model, "name"), (f" · {formats}", "note"))
        yield from _head(model, self._device(), columns)
        parts = self._parts()
        bar = Text()
        for glyph, style, cells in zip(
            glyphs, parts, share_cells([size for _, size in parts.values()], columns), strict=True
        ):
            bar.append(glyph * cells, style)
        yield bar
        yield from _legend(parts, None if has_colours else glyphs, columns)
        room = Text(room_for(self._plan.chosen.context_tokens))
        yield from _sides(room, Text(HELP_HINT, style="note"), columns)

    def _device(self) -> Text:
        device = self._plan.device
        name = safe_line(device.name).removeprefix("NVIDIA ").removeprefix("GeForce ")
        return Text(f"{name} · {format_bytes(device.total_bytes)}", style="note")

    def _parts(self) -> dict[str, tuple[str, int]]:
        """Name and bytes of each part of the memory, by its style."""
        used, device = self._plan.chosen.bytes, self._plan.device
        return {
            "memory.weights": ("weights", used.weights),
            "memory.cache": ("KV", used.kv_global + used.kv_sliding),
            "memory.work": ("work", used.workspace + used.reserve),
            "memory.others": ("in use", max(device.total_bytes - device.free_bytes, 0)),
            "memory.free": ("free", max(device.free_bytes - used.total, 0)),
        }


class RemoteHeader:
    """Model and server of a chat with a model elsewhere, for any width.

    Args:
        model_name: its address and name.
        context_tokens: what its context holds; 0 where the server does not say.
    """

    def __init__(self, model_name: str, context_tokens: int) -> None:
        self._model, self._room = model_title(model_name), room_for(context_tokens)
        self._host = safe_line(parse_address(model_name).host)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns = min(options.max_width, MOST_COLUMNS)
        yield from _head(Text(self._model, "name"), Text(self._host, "note"), columns)
        yield from _sides(Text(self._room), Text(HELP_HINT, style="note"), columns)


def load_header(model: str, load: str, share: float, columns: int) -> Fragments:
    """As many rows as the header will have, as style and text: `load` says how loading goes."""
    columns = min(columns, MOST_COLUMNS)
    done = progress_bar(share, columns).rstrip("░")
    title = "" if model == "auto" else model_title(model)
    room = columns - cell_len(_PROGRAM) - 2
    name = f"  {one_row(title, room)}" if title and room > 0 else ""
    return [
        ("class:title", one_row(_PROGRAM, columns)),
        ("class:note", f"{name}\n"),
        ("class:accent", done),
        ("class:track", "░" * (columns - len(done)) + "\n"),
        ("class:note", one_row(load, columns) + "\n"),
        ("class:note", one_row(f"you can type · {HELP_HINT}", columns) + "\n"),
    ]


def room_for(tokens: int) -> str:
    """`room for 262,144 tokens, about 600 pages`; 0 is a server's that does not say."""
    if not tokens:
        return "the server does not say how long its context is"
    return f"room for {format_count(tokens)} tokens, {pages(tokens)}"


def model_title(name: str) -> str:
    """`Gemma 4 31B` of its hub id; of others the last part of what they are called."""
    name = shown_model(name)
    known = known_model(name)
    if known is not None:
        return f"Gemma 4 {known.short_name.upper()}"
    return safe_line(name.rstrip("/").rpartition("/")[2])


def pages(tokens: int) -> str:
    """`about 600 pages`: two figures of what that many tokens are in print."""
    count = tokens / _PAGE_TOKENS
    digits = max(len(str(round(count))) - 2, 0)
    whole = max(round(count, -digits), 1)
    return f"about {format_count(round(whole))} page{'s' if whole != 1 else ''}"


def _head(model: Text, device: Text, columns: int) -> Iterator[Text]:
    """Program, model and device in one row where it is wide enough."""
    program = Text(_PROGRAM, style="title")
    whole = Text.assemble(program, "   ", model)
    if whole.cell_len + device.cell_len + 2 <= columns:
        yield from _sides(whole, device, columns)
        return
    device.truncate(max(columns - program.cell_len - 2, 1), overflow="ellipsis")
    yield from _sides(program, device, columns)
    model.truncate(columns, overflow="ellipsis")
    yield model


def _sides(left: Text, right: Text, columns: int) -> Iterator[Text]:
    """One row with both ends, or two rows."""
    gap = columns - left.cell_len - right.cell_len
    if gap >= 2:
        yield Text.assemble(left, " " * gap, right)
    else:
        yield left
        yield right


def _legend(parts: dict[str, tuple[str, int]], glyphs: str | None, columns: int) -> Iterator[Text]:
    """What the parts of the bar are, by colour or by glyph, in as many rows as it takes."""
    row = Text()
    for index, (style, (name, size)) in enumerate(parts.items()):
        if size <= 0:
            continue
        name = f"{glyphs[index]} {name}" if glyphs else name
        item = Text.assemble((name, style), f" {format_bytes(size)}")
        if row and row.cell_len + 3 + item.cell_len > columns:
            yield row
            row = Text()
        row = Text.assemble(row, "   ", item) if row else item
    yield row
