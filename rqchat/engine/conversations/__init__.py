"""Saved conversations: one SQLite file, and what writes, finds and loads them. No torch."""
