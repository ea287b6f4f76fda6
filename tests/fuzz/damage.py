"""Damage to files, as disks, cut downloads and people with bad intentions do it."""

from __future__ import annotations

import random

__all__ = ["damaged"]

_EXTREMES = (b"\x00" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80\0\0\0")


def damaged(made: random.Random, data: bytes, most: int = 6) -> bytes:
    """`data` after up to `most` steps: bytes changed, cut out, put in, or said again."""
    out = bytearray(data)
    for _ in range(made.randint(0, most)):
        if not out:
            break
        start = made.randrange(len(out))
        length = made.choice((1, 1, 2, 4, made.randint(1, 64)))
        match made.randrange(7):
            case 0:
                out[start] ^= 1 << made.randrange(8)
            case 1:
                out[start : start + 4] = made.choice(_EXTREMES)
            case 2:
                out[start : start + length] = made.randbytes(length)
            case 3:
                del out[start : start + length]
            case 4:
                out[start:start] = made.randbytes(length)
            case 5:
                piece = out[start : start + length]
                out[start:start] = piece * made.choice((1, 3, 100))
            case _:
                del out[start if made.random() < 0.3 else max(start, len(out) - 40) :]
    return bytes(out)
