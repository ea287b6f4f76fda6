"""Every kernel compiled ahead of time for every card, within what the card has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.compile.limits import CARDS, Figures, faults, loop_spills, run_without_interpreter
from tests.compile.proofs import (
    SAMPLE,
    disagreements,
    launches_to_compile,
    read_proofs,
    write_proofs,
)

pytest.importorskip("triton", reason="triton is not installed")

FIGURES = Figures(1024, 64, 0, 0, 0, 0)
KERNELS = {
    *("quantize_kernel", "dequantize_kernel", "attend_kernel", "join_kernel", "decode_kernel"),
    *("merge_kernel", "chunk_kernel", "rebuild_kernel", "map_kernel", "mix_kernel", "norm_kernel"),
    *("gate_kernel", "heads_kernel", "append_kernel", "scaled_kernel"),
    *("gemv_kernel", "gated_gemv_kernel", "dot_kernel", "expert_gemv_kernel", "expert_dot_kernel"),
    "gather_rows_kernel",
}


@pytest.mark.slow
def test_kernels_fit_every_card(
    tmp_path: Path,
    pytestconfig: pytest.Config,
    record_property: Callable[[str, object], None],
) -> None:
    """What has changed, and ten others at random; `--compile-all` takes every case."""
    mode = "all" if pytestconfig.getoption("--compile-all") else "changed"
    found = run_without_interpreter(tmp_path, "tests.compile", mode)
    record_property("summary", found["summary"])
    assert {one["card"] for one in found["results"]} == set(CARDS)
    assert {one["kernel"] for one in found["results"]} == KERNELS


def test_a_kernel_is_compiled_once_whatever_the_lengths_are(tmp_path: Path) -> None:
    """Or answers would stop for seconds, and a captured step could not be made."""
    made = run_without_interpreter(tmp_path, "tests.compile.lengths")
    assert {"decode_kernel", "map_kernel", "quantize_kernel"} <= made.keys()
    # Of the new tokens and of all, whether they are a multiple of 16; its loop needs to know.
    assert 1 <= made.pop("chunk_kernel") <= 4
    assert made == dict.fromkeys(made, 1)


@pytest.mark.slow
def test_a_product_of_one_row_in_field_order_has_no_barrier_in_its_loop(tmp_path: Path) -> None:
    """4 bits on an H100; a card has 4.4 instructions for each code that its memory delivers."""
    found = run_without_interpreter(tmp_path, "tests.compile.row_products", "90")
    ordered = [one for one in found if one["ordered"]]
    assert {one["kernel"] for one in ordered} == {"gemv_kernel", "gated_gemv_kernel"}
    for one in ordered:
        assert one["barriers"] == 0, one
        assert one["instructions_a_code"] <= 4.15, one
        assert one["shared_bytes"] <= 64, one


def test_a_changed_kernel_has_another_digest_and_an_unchanged_one_has_not(tmp_path: Path) -> None:
    found = run_without_interpreter(tmp_path, "tests.compile.planted")
    same = [what for what, equal in found["equal"].items() if equal]
    assert same == ["the_same", "a launch"]
    assert "plain is <object" in found["refused"]


def test_what_is_not_proven_is_compiled_and_ten_others() -> None:
    proofs = dict.fromkeys(map(str, range(100)), FIGURES)
    launched = {"new", *map(str, range(50))}
    samples = [launches_to_compile(launched, proofs, seed) for seed in (1, 2, 1)]
    assert all("new" in one and len(one) == 1 + SAMPLE and one <= launched for one in samples)
    assert samples[0] == samples[2] != samples[1]
    assert launches_to_compile(launched, {}, 1) == launched


def test_a_proof_that_does_not_hold_is_found() -> None:
    other = Figures(1024, 65, 0, 0, 0, 0)
    assert disagreements({"a": FIGURES, "new": other}, {"a": FIGURES, "b": other}) == []
    (fault,) = disagreements({"a": FIGURES}, {"a": other})
    assert "registers=64" in fault and "registers=65" in fault


def test_proofs_are_read_as_written_and_never_under_another_triton(tmp_path: Path) -> None:
    path = tmp_path / "proofs.txt"
    assert read_proofs(path) == {}
    write_proofs({"b": "k", "a": "k"}, {"a": FIGURES, "b": FIGURES, "gone": FIGURES}, path)
    assert read_proofs(path) == {"a": FIGURES, "b": FIGURES}
    path.write_text(path.read_text().replace("triton ", "triton 0"))
    assert read_proofs(path) == {}


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
