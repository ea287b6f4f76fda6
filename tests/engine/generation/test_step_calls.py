"""A decode step on a CPU is few torch calls, counted in an answer of the pocket model."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from rqchat.engine.inputs.documents import Document
from rqchat.engine.session import ChatSession, UserTurn
from rqchat.engine.settings import SamplingSettings, Settings

_MOST_CALLS = 700  # of a token; version 0.1 took 1,407


class _Calls(TorchDispatchMode):
    """Counts what reaches torch's dispatcher."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_a_token_takes_few_calls() -> None:
    session = ChatSession.open(Settings(model="pocket", device="cpu", kv_bits=4))
    session._loaded = dataclasses.replace(session._loaded, stop_ids=frozenset())
    turn = UserTurn("Sum up.", documents=(Document("d", "some words of a text " * 300),))
    list(session.ask(turn, SamplingSettings(temperature=0, max_tokens=1)))
    assert session._prefix.cache.packed_tokens > 0
    counts = []
    for tokens in (3, 11):
        session.restore(())
        with _Calls() as calls:
            list(session.ask(turn, SamplingSettings(temperature=0, max_tokens=tokens)))
        counts.append(calls.count)
    assert counts[1] - counts[0] <= 8 * _MOST_CALLS
