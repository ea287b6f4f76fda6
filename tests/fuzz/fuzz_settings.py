"""Settings files that are cut, mixed up, of another encoding, or made to break a reader of TOML."""

from __future__ import annotations

import json
import random
from pathlib import Path

from rqchat.cli.setting_layers import KEYS, read_file

__all__ = ["try_one"]

_VALUES = (
    *("1", "-1", "0", "9" * 5000, "1e400", "nan", "inf", "true", '"x"', "''", "1979-05-27", "[]"),
    *(
        "[" * 1000 + "]" * 1000,
        "{a=" * 300 + "1" + "}" * 300,
        '"\\ud800"',
        '"\\u0000"',
        "0x_1",
        "'''",
    ),
    *('"24GiB"', '"1e400GiB"', '"nan"', '"auto"', '"\x1b[2J"', '"' + "x" * 10_000 + '"'),
)
_ENCODINGS = ("utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1")


def try_one(rng: random.Random, folder: Path) -> None:
    """A file of keys, ours and others, with values of all kinds."""
    lines = []
    for _ in range(rng.randint(0, 8)):
        key = rng.choice((*KEYS, None))
        name = key.name if key else rng.choice(("x", '"é"', "a.b", "presets", "k" * 3000, ""))
        example = json.dumps(key.example) if key and rng.random() < 0.5 else rng.choice(_VALUES)
        lines.append(f"{name} = {example}")
        if rng.random() < 0.1:
            lines.append(rng.choice(("[presets.a]", "[presets]", "[[presets]]", "[" * 500, "# é")))
    data = bytearray("\n".join(lines).encode(rng.choice(_ENCODINGS), "replace"))
    for _ in range(rng.choice((0, 0, 1, 9))):
        if data:
            data[rng.randrange(len(data))] = rng.randrange(256)
    path = folder / "config.toml"
    path.write_bytes(data[: rng.choice((len(data), rng.randint(0, len(data))))])
    read_file(path)
