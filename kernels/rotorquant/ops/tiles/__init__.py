"""Pieces that kernels share: waves of rotary angles, queries in chunks, rows of any width."""
