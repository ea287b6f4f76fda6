"""Everyday notes and questions about them, drawn from a seed."""
