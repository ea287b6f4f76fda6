"""The colours of the screen, dark and light: no other file names one.

One accent colour with two shades, dim for what is secondary, bold for what is decided. A colour
behind text always has one in front of it too, so that a theme stays readable on the other kind of
terminal. Hex values are of the 256 colours that nearly every terminal has (xterm's cube).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["DARK", "LIGHT", "Theme", "theme_of"]

# What the line editor draws; none of them has a colour by name, which it would spell otherwise
_PROMPT_STYLES = (
    *("prompt", "turn", "continuation", "status", "note", "thought", "accent", "title", "track"),
    *("mark", "waiting", "menu", "menu.current"),
)
_SHADES = {  # name -> in the dark theme, in the light one
    "accent": ("#00afd7", "#005faf"),
    "accent.second": ("#0087af", "#5f87d7"),
    "accent.third": ("#5f8787", "#87afd7"),
    "track": ("#585858", "#bcbcbc"),
    "menu": ("#d0d0d0 on #262626", "#303030 on #eeeeee"),
    "menu.current": ("bold #ffffff on #005f87", "bold #000000 on #afd7ff"),
    "turn": ("bold #ffffff on #303030", "bold #000000 on #e4e4e4"),
    "warning": ("yellow", "#875f00"),
}


@dataclass(frozen=True, slots=True)
class Theme:
    """One set of colours.

    Attributes:
        name: `dark` or `light`.
        styles: rich's styles by name; what is missing is as rich has it.
        code: the highlighting of code, as rich calls it: the terminal's own 16 colours.
    """

    name: str
    styles: Mapping[str, str]
    code: str

    @property
    def prompt_styles(self) -> dict[str, str]:
        """The styles of the line editor, as prompt-toolkit writes them."""
        styles = {name: self.styles[name].replace("on #", "bg:#") for name in _PROMPT_STYLES}
        menu = "completion-menu"  # as prompt-toolkit calls it
        return styles | {
            menu: styles["menu"],
            f"{menu}.completion": styles["menu"],
            f"{menu}.meta.completion": styles["menu"],
            f"{menu}.completion.current": f"noreverse {styles['menu.current']}",
            f"{menu}.meta.completion.current": f"noreverse {styles['menu.current']}",
            "scrollbar.background": styles["menu"],
            "scrollbar.button": styles["menu.current"],
        }


def theme_of(setting: str = "auto") -> Theme:
    """The theme `dark` or `light`; with `auto` as `RQCHAT_THEME` or the terminal says, else dark.

    Terminals are not asked, because some never answer. What rxvt, Konsole and iTerm2 tell of their
    own accord is `COLORFGBG`, which ends with the number of the background's colour.
    """
    asked = os.environ.get("RQCHAT_THEME", setting) if setting == "auto" else setting
    background = os.environ.get("COLORFGBG", "").rpartition(";")[2]
    # The first seven and the ninth of the 16 colours are dark ones
    is_light = background.isdecimal() and int(background) >= 7 and background != "8"
    return LIGHT if asked == "light" or (asked != "dark" and is_light) else DARK


def _theme(name: str, column: int) -> Theme:
    shade = {key: values[column] for key, values in _SHADES.items()}
    accent = shade["accent"]
    styles = {
        **shade,
        "title": f"bold {accent}",
        "prompt": f"bold {accent}",
        "mark": accent,
        "continuation": "dim",
        "status": "dim",
        "note": "dim",
        "waiting": "dim",
        "thought": "dim italic",
        "name": "bold",
        "error": "bold red",
        "good": "green",
        "bad": "bold red",
        "chosen": "bold green",
        "memory.weights": accent,
        "memory.cache": shade["accent.second"],
        "memory.work": shade["accent.third"],
        "memory.others": shade["track"],
        "memory.free": "dim",
        # Of Markdown, what rich draws for dark terminals alone
        "markdown.code": accent,
        "markdown.block_quote": "",
        "markdown.item.bullet": accent,
        "markdown.item.number": accent,
        "markdown.h1": f"bold {accent}",
        "markdown.h2": f"bold {accent}",
        "markdown.h3": "bold",
        "markdown.h4": "bold italic",
        "markdown.list": "",
        "markdown.hr": "dim",
        "markdown.link": f"underline {accent}",
        "markdown.link_url": "underline",
        "markdown.table.border": shade["track"],
        "markdown.table.header": "bold",
    }
    return Theme(name, styles, f"ansi_{name}")


DARK, LIGHT = _theme("dark", 0), _theme("light", 1)
