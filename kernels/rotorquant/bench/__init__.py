"""Measurements of the library: `python -m rotorquant.bench fidelity`."""
