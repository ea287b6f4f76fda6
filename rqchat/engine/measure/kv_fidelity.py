"""Measures what the planned KV cache costs on the user's own model, and calibrates it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from rotorquant import Calibration, RotorQuantConfig, RotorQuantError, calibrate
from rotorquant.fidelity.kl_divergence import ModelRow, ModelRun
from rotorquant.fidelity.methods import Method
from rotorquant.fidelity.scored_text import Sequence, write_sequence
from rqchat.engine.events import Event, Notice
from rqchat.engine.loading.loader import CALIBRATION_FILE, OLD_CALIBRATION_FILE
from rqchat.engine.loading.open_model import OpenedModel, open_model
from rqchat.engine.measure.fidelity_record import Fidelity, FidelityRow
from rqchat.engine.model_files.resolve import POCKET
from rqchat.engine.settings import Settings
from rqchat.errors import InputError, ModelError, UsageError

try:
    from pydoc_data.topics import topics
except ImportError:  # some distributions have it in a package of its own
    topics = {}

__all__ = ["LEAST_TOKENS", "calibrate_model", "verify_model"]

LEAST_TOKENS = 1024  # the first 704 read nothing packed
_OWN_SEED = 0
_CALIBRATION_SEED = 1

Listener = Callable[[Event], None]


def verify_model(
    settings: Settings, text: str | None, most_tokens: int, on_event: Listener
) -> Fidelity:
    """The planned cache against an exact one, on the first `most_tokens` of a text.

    Args:
        settings: which model, device and KV bits.
        text: what is read; None takes the help of Python, or lets the model write where that is not
            installed.
        most_tokens: to read.
        on_event: gets `Notice` and `LoadProgress`.

    Raises:
        RqchatError: no such model, it does not fit, or the text is too short.
    """
    opened = open_model(settings, on_event)
    if text is None and (text := _help_of_python()):
        on_event(Notice("no text given: reading the help of Python; --file takes one like yours"))
    ids = _tokens(opened, text, min(most_tokens, opened.plan.chosen.context_tokens), on_event)
    chosen = opened.plan.chosen
    config = RotorQuantConfig(chosen.kv_bits, sliding_bits=chosen.sliding_bits)
    method = Method("planned", config, "nothing" if opened.loaded.calibration is None else "all")
    everything = Sequence(ids, torch.ones(len(ids), dtype=torch.bool))
    try:
        path = opened.loaded.calibration
        known = None if path is None else Calibration.load(path)
        run = ModelRun(opened.loaded.model, [everything], known)
        floor, planned = run.score(None), run.score(method)
    except RotorQuantError as error:
        raise ModelError(f"{opened.name} cannot be verified: {error}") from error
    return Fidelity(
        model=opened.name,
        weights=chosen.weights,
        calibration=known.digest if known else "",
        scored_tokens=planned.tokens,
        floor=_row("exact, stock", floor),
        planned=_row(f"{chosen.kv_bits} bits", planned),
    )


def calibrate_model(
    settings: Settings, text: str | None, most_tokens: int, on_event: Listener
) -> Path:
    """Writes the calibration that sessions of this model will use, beside its weights.

    Arguments and errors as in `verify_model`, but None lets the model write its text. A folder that
    cannot be written is one more error, and the pocket model in the package, which stays as it is.
    """
    opened = open_model(settings, on_event)
    if opened.name == POCKET:
        raise UsageError(
            "the pocket model brings its calibration; name the model that is to get one: --model"
        )
    ids = _tokens(opened, text, most_tokens, on_event, _CALIBRATION_SEED)
    assert opened.loaded.folder is not None
    path = opened.loaded.folder / CALIBRATION_FILE
    try:
        calibrate(opened.loaded.model, ids, path)
        path.with_name(OLD_CALIBRATION_FILE).unlink(missing_ok=True)  # it is not read any more
    except OSError as error:
        raise ModelError(f"{path} cannot be written: {error}") from None
    except RotorQuantError as error:
        raise ModelError(f"{opened.name} cannot be calibrated: {error}") from error
    return path


def _tokens(
    opened: OpenedModel, text: str | None, most: int, on_event: Listener, seed: int = _OWN_SEED
) -> torch.Tensor:
    """The first `most` ids [N] of a text behind the first token, or of the model's own."""
    if text is None:
        on_event(Notice(f"no text given: the model writes {most:,} tokens of its own first"))
        return write_sequence(opened.loaded.model, most, seed).ids
    tokenizer = opened.loaded.tokenizer
    found = tokenizer(text, add_special_tokens=False)["input_ids"]
    first = tokenizer.bos_token_id
    if first is not None and found[:1] != [first]:
        found = [first, *found]
    if len(found) < LEAST_TOKENS:
        raise InputError(
            f"the text has {len(found):,} tokens; {LEAST_TOKENS:,} are needed, as the latest ones"
            " are always exact; give a longer one, or none"
        )
    if len(found) > most:
        on_event(Notice(f"reading the first {most:,} of {len(found):,} tokens"))
    return torch.tensor(found[:most])


def _help_of_python() -> str | None:
    """Some 600,000 characters of prose and code that lie on most machines.

    A model's own text would be nearer to a chat, but takes minutes, and a small model falls into a
    loop, in which every cache is perfect.
    """
    return "\n\n".join(topics.values()) or None


def _row(name: str, row: ModelRow) -> FidelityRow:
    return FidelityRow(
        name,
        row.bits,
        row.token_bytes,
        row.mean,
        row.median,
        row.high,
        row.top_1,
        row.perplexity,
    )
