"""Benchmarks of the whole program, run from outside as users run it."""
