"""Weights: how they are packed, read from files, multiplied, and put onto a device."""
