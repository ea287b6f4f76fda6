"""Every kernel compiled ahead of time for every card, within what the card has."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.compile.limits import faults, loop_spills, run_compiler, run_without_interpreter, table

pytest.importorskip("triton", reason="triton is not installed")


def test_a_kernel_is_compiled_once_whatever_the_lengths_are(tmp_path: Path) -> None:
    """Or answers would stop for seconds, and a captured step could not be made."""
    (made,) = run_without_interpreter("tests.compile.lengths", tmp_path)
    assert {"decode_kernel", "map_kernel", "quantize_kernel"} <= made.keys()
    # Of the new tokens and of all, whether they are a multiple of 16; its loop needs to know.
    assert 1 <= made.pop("chunk_kernel") <= 4
    assert made == dict.fromkeys(made, 1)


def test_kernels_fit_every_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What differs most; `python -m tests.compile.ops all` takes every case, in some minutes."""
    results = run_compiler("tests.compile.ops", tmp_path)
    with capsys.disabled():
        sys.stdout.write("\n" + table(results) + "\n")
    assert {one["kernel"] for one in results} == {
        "quantize_kernel",
        "dequantize_kernel",
        "attend_kernel",
        "join_kernel",
        "decode_kernel",
        "merge_kernel",
        "chunk_kernel",
        "rebuild_kernel",
        "map_kernel",
        "mix_kernel",
        "norm_kernel",
        "gate_kernel",
        "heads_kernel",
        "append_kernel",
        "finite_kernel",
        "scaled_kernel",
    }


def test_what_does_not_fit_is_found() -> None:
    fine = {
        "kernel": "k", "case": "c", "card": 86,
        "shared_bytes": 101_376, "registers": 255, "stack_bytes": 0, "loop_spills": 0, "float64": 0,
        "tensor_columns": 512, "triton": "3.9.0",
    }  # fmt: skip
    assert faults([fine, fine | {"card": 90, "shared_bytes": 232_448}]) == []
    assert "bytes of shared memory" in faults([fine | {"shared_bytes": 101_377}])[0]
    assert "spilled" in faults([fine | {"stack_bytes": 8}])[0]
    outside = fine | {"kernel": "chunk_kernel", "stack_bytes": 8}
    assert faults([outside]) == []
    assert "spilled" in faults([outside | {"loop_spills": 1}])[0]
    old = fine | {"triton": "3.6.0", "stack_bytes": 16, "loop_spills": 1}
    assert faults([old]) == []
    assert "spilled" in faults([old | {"stack_bytes": 24}])[0]
    assert "tensor memory" in faults([fine | {"tensor_columns": 576}])[0]
    assert "float64" in faults([fine | {"float64": 1}])[0]


def test_spills_are_counted_inside_loops() -> None:
    code = """
        /*0010*/    STL [R1], R2 ;      /* 0x0000 */
        /*0020*/    @P0 BRA 0x60 ;      /* 0x0000 */
        /*0030*/    LDL.64 R4, [R1+0x8] ;
        /*0040*/    BRA.DIV ~URZ, 0x90 ;
        /*0050*/    @!P1 BRA 0x30 ;
        /*0060*/    @P2 BRA 0x80 ;
        /*0070*/    LDL R2, [R1] ;
        /*0080*/    EXIT ;
        /*0090*/    STL [R1+0x8], R4 ;
        /*00a0*/    BRA 0x50 ;
    """
    # What is between 0x50 and 0xa0 runs once; 0x90 only where threads part.
    assert loop_spills(code) == 1
