"""Options: what is refused, and in which words."""

from __future__ import annotations

from typing import Any

import pytest

from rotorquant import Bits, RotorQuantConfig
from rotorquant.exceptions import ConfigError


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"bits": 7}, "bits is 7; allowed are 2, 3, 4, 5, 6, 8, 16"),
        ({"bits": 4.0}, "bits is 4.0"),
        ({"mode": "spin"}, "mode is 'spin'; allowed are aligned, planar, iso"),
        ({"sliding_bits": 4}, "sliding_bits is 4; allowed are 8, 16"),
        ({"sink_tokens": -1}, "sink_tokens is -1"),
        ({"recent_tokens": 0}, "recent_tokens is 0"),
        ({"page_tokens": True}, "page_tokens is True"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"max_tokens": "8k"}, "max_tokens is '8k'"),
        ({"mode": "q8_0", "bits": Bits(8, 8, 4)}, "mode is 'q8_0' with bits .*8 bits only"),
        ({"table": "legacy", "bits": Bits(4, 4, 6)}, "it has 4 bits only"),
    ],
)
def test_an_option_out_of_range_is_named(option: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        RotorQuantConfig(**option)
