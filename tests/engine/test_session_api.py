"""A session is what commands and the recorder take one for."""

from __future__ import annotations

import inspect

import pytest

from rqchat.engine.session import ChatSession
from rqchat.engine.session_api import Session
from tests.cli.fake_session import FakeSession

_METHODS = [name for name, member in vars(Session).items() if inspect.isfunction(member)]


def test_a_chat_session_is_a_session(loaded: ChatSession) -> None:
    assert isinstance(loaded, Session)
    assert not isinstance(loaded.plan, Session)


@pytest.mark.parametrize("kind", [ChatSession, FakeSession])
@pytest.mark.parametrize("name", [name for name in _METHODS if not name.startswith("_")])
def test_its_methods_take_what_the_protocol_says(kind: type, name: str) -> None:
    wanted = inspect.signature(getattr(Session, name)).parameters
    given = inspect.signature(getattr(kind, name)).parameters
    assert {each: parameter.kind for each, parameter in given.items()} == {
        each: parameter.kind for each, parameter in wanted.items()
    }
