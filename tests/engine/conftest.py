"""Models that are loaded once; tests make sessions of their own over them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from rqchat.engine.session import ChatSession
from tests.engine.sessions import open_session, over


@pytest.fixture(scope="session")
def loaded(tiny_folder: Path) -> ChatSession:
    """The tiny model with an exact cache, which reads 16 tokens at a time."""
    return over(open_session(tiny_folder), chunk_tokens=16)


@pytest.fixture
def session(loaded: ChatSession) -> ChatSession:
    """A new session over `loaded`."""
    return over(loaded)


@pytest.fixture(scope="session")
def packed(tiny_folder: Path) -> ChatSession:
    """The tiny model with a cache of 4 bits."""
    return open_session(tiny_folder, kv_bits=4)


@pytest.fixture(scope="session")
def endless(packed: ChatSession) -> ChatSession:
    """The same without tokens that end an answer."""
    opened = over(packed)
    opened._loaded = dataclasses.replace(opened._loaded, stop_ids=frozenset())
    return opened
