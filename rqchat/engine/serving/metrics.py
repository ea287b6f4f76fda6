"""What the server counts, as Prometheus reads it (text format 0.0.4)."""

from __future__ import annotations

from collections import Counter

from rqchat.engine.serving.answering import Ending

__all__ = ["Metrics"]

_HELP = {
    "rqchat_requests_total": ("counter", "Answers by how they ended."),
    "rqchat_prompt_tokens_total": ("counter", "Tokens of prompts."),
    "rqchat_cached_tokens_total": ("counter", "Those of them that were not read again."),
    "rqchat_output_tokens_total": ("counter", "Tokens of answers, thoughts included."),
    "rqchat_prefill_seconds_total": ("counter", "Time in which prompts were read."),
    "rqchat_decode_seconds_total": ("counter", "Time in which answers were written."),
    "rqchat_requests_waiting": ("gauge", "Requests that wait for their turn."),
    "rqchat_context_tokens": ("gauge", "Tokens that the context holds."),
}


class Metrics:
    """Sums over all answers that ended."""

    def __init__(self) -> None:
        self._reasons: Counter[str] = Counter()
        self._sums: Counter[str] = Counter()
        self._seconds = {"prefill": 0.0, "decode": 0.0}

    def add(self, ending: Ending) -> None:
        """Counts an answer."""
        tokens, timing = ending.done.tokens, ending.done.timing
        self._reasons[ending.reason] += 1
        self._sums.update(prompt=tokens.input, cached=tokens.cached, output=tokens.output)
        self._seconds["prefill"] += timing.prefill_s
        self._seconds["decode"] += timing.decode_s

    def text(self, *, waiting: int, context_tokens: int) -> str:
        """The page, with what holds now."""
        values: dict[str, float] = {
            "rqchat_prompt_tokens_total": self._sums["prompt"],
            "rqchat_cached_tokens_total": self._sums["cached"],
            "rqchat_output_tokens_total": self._sums["output"],
            "rqchat_prefill_seconds_total": self._seconds["prefill"],
            "rqchat_decode_seconds_total": self._seconds["decode"],
            "rqchat_requests_waiting": waiting,
            "rqchat_context_tokens": context_tokens,
        }
        lines = []
        for name, (kind, meaning) in _HELP.items():
            lines += [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
            if name in values:
                lines.append(f"{name} {values[name]}")
            else:
                lines += [f'{name}{{reason="{r}"}} {n}' for r, n in sorted(self._reasons.items())]
        return "\n".join(lines) + "\n"
