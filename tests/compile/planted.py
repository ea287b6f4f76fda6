"""Says which versions of a small kernel have the digest of the first, as JSON; for the tests.

Needs a process without Triton's interpreter: `python -m tests.compile.planted`.
"""

from __future__ import annotations

import json
import sys

import triton
import triton.language as tl

from tests.compile.fingerprint import digest_of, source_digest

STEP, OTHER_STEP = tl.constexpr(2), tl.constexpr(3)
plain: object = object()


@triton.jit
def helper(x):
    """Twice as much."""
    return x * STEP


@triton.jit
def renamed_helper(value):
    return value * STEP  # and no docstring


@triton.jit
def other_helper(x):
    return x + STEP


@triton.jit
def first(x_ptr, SIZE: tl.constexpr):
    """A kernel."""
    place = tl.arange(0, SIZE)
    tl.store(x_ptr + place, helper(tl.load(x_ptr + place)))


@triton.jit
def the_same(values_ptr, WIDTH: tl.constexpr):
    # Another comment, other names and other lines.
    at = tl.arange(
        0,
        WIDTH,
    )
    tl.store(values_ptr + at, renamed_helper(tl.load(values_ptr + at)))


@triton.jit
def another_helper(x_ptr, SIZE: tl.constexpr):
    place = tl.arange(0, SIZE)
    tl.store(x_ptr + place, other_helper(tl.load(x_ptr + place)))


@triton.jit
def another_number(x_ptr, SIZE: tl.constexpr):
    place = tl.arange(1, SIZE)
    tl.store(x_ptr + place, helper(tl.load(x_ptr + place)))


@triton.jit
def another_operand(x_ptr, SIZE: tl.constexpr):
    place = tl.arange(0, SIZE)
    tl.store(x_ptr + SIZE, helper(tl.load(x_ptr + place)))


@triton.jit
def reads_step(x_ptr):
    tl.store(x_ptr, STEP)


@triton.jit
def reads_other_step(x_ptr):
    tl.store(x_ptr, OTHER_STEP)


@triton.jit
def reads_an_object(x_ptr):
    tl.store(x_ptr, plain)


def main() -> None:
    """One JSON object: whether each pair of launches has one digest, and what is refused."""
    start = source_digest(first)
    equal = {
        one.__name__: source_digest(one) == start
        for one in (the_same, another_helper, another_number, another_operand)
    }
    equal["a constant"] = source_digest(reads_step) == source_digest(reads_other_step)
    launch = digest_of(first, 86, "[('*fp32', 'D')]{'num_warps': 4}")
    equal["a launch"] = digest_of(the_same, 86, "[('*fp32', 'D')]{'num_warps': 4}") == launch
    equal["a card"] = digest_of(first, 90, "[('*fp32', 'D')]{'num_warps': 4}") == launch
    equal["an option"] = digest_of(first, 86, "[('*fp32', 'D')]{'num_warps': 8}") == launch
    try:
        source_digest(reads_an_object)
        refused = ""
    except TypeError as error:
        refused = str(error)
    json.dump({"equal": equal, "refused": refused}, sys.stdout)


if __name__ == "__main__":
    main()
