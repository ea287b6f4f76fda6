"""How far loading and reading are, in one line. Apart from answers, whose Markdown loads slowly."""

from __future__ import annotations

from rich.cells import cell_len

from rqchat.engine.events import LoadProgress, PrefillProgress
from rqchat.engine.sizes import format_bytes
from rqchat.ui.looks.bars import progress_bar
from rqchat.ui.text import format_count, format_seconds

__all__ = ["load_status", "prefill_status"]

_BAR_CELLS = 20


def prefill_status(event: PrefillProgress, columns: int) -> str:
    """`reading ███░░░ 25 % of 2,048 tokens · 900 tokens/s · 1.7 s left · Ctrl-C stops`.

    The rate counts the tokens that needed work; cached ones came for free. Where `columns` are
    fewer, parts are left out; how much is done and the time left go last.
    """
    share = event.done_tokens / max(event.total_tokens, 1)
    bar = progress_bar(share, min(_BAR_CELLS, columns // 4))
    start = f"reading {bar} {int(100 * share)} %"
    whole = f"{start} of {format_count(event.total_tokens)} tokens"
    worked_tokens = event.done_tokens - event.cached_tokens
    forms: tuple[tuple[str, ...], ...] = ((whole,), (start,))
    if worked_tokens > 0 and event.elapsed_s > 0:
        tokens_per_s = worked_tokens / event.elapsed_s
        left_s = (event.total_tokens - event.done_tokens) / tokens_per_s
        rate = f"{format_count(round(tokens_per_s))} tokens/s"
        left, stop = f"{format_seconds(left_s)} left", "Ctrl-C stops"
        forms = ((whole, rate, left, stop), (whole, rate, left), (start, rate, left), (start, left))
    lines = [" · ".join(form) for form in forms]
    return next((line for line in lines if cell_len(line) <= columns), lines[-1])


def load_status(event: LoadProgress) -> str:
    """`downloading 43 % of 17.2 GiB · 110 MiB/s · 1 min 29 s left`.

    Without the share where the total is unknown, without the rest where the rate is.
    """
    if event.total_bytes <= 0:
        return event.stage
    percent = 100 * event.done_bytes // event.total_bytes
    text = f"{event.stage} {percent} % of {format_bytes(event.total_bytes)}"
    if event.bytes_per_s <= 0:
        return text
    left_s = (event.total_bytes - event.done_bytes) / event.bytes_per_s
    rate = format_bytes(round(event.bytes_per_s))
    return f"{text} · {rate}/s · {format_seconds(left_s)} left"
