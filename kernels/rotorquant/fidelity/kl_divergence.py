"""KL divergence of a model's next-token distribution under every way to store its cache.

The reference reads the same tokens in the same chunks from exact storage. Every cache has the same
exact first and latest tokens, and only tokens are scored whose global layers read packed pages;
their dtype is checked each time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, DynamicCache

from rotorquant.attend.entry import ATTENTION_NAME
from rotorquant.cache import RotorQuantCache
from rotorquant.calibration.calibration import Calibration, calibrate
from rotorquant.calibration.statistics import offset_alone
from rotorquant.config import RotorQuantConfig
from rotorquant.exceptions import ConfigError
from rotorquant.fidelity.methods import Method
from rotorquant.fidelity.scored_text import Sequence, read_sequences, write_sequence
from rotorquant.layers.global_layer import GlobalLayer

__all__ = ["ModelRow", "ModelRun"]

_CHUNK = 64
_SINK, _RECENT, _PAGE = 64, 512, 64
_FIRST = _SINK + _RECENT + _PAGE + _CHUNK  # a chunk from here on reads a packed page
_CALIBRATION_TOKENS = 8192
_OWN_CALIBRATION_TOKENS = 2048  # where the model has to write them itself


@dataclass(frozen=True, slots=True)
class ModelRow:
    """The result of one method on one text.

    Attributes:
        name, bits: see `Method`.
        token_bytes: of a packed token, all global layers together, counted on the tensors.
        mean, median, high: KL divergence from the reference in nats, `high` its 99 % quantile.
        top_1: share of tokens whose likeliest successor is the reference's.
        perplexity: of the text.
        tokens: scored.
        stored: dtypes in which the tokens that were read lay.
    """

    name: str
    bits: int
    token_bytes: float
    mean: float
    median: float
    high: float
    top_1: float
    perplexity: float
    tokens: int
    stored: str


class ModelRun:
    """A model and the texts that it is scored on.

    Args:
        model: a transformers decoder.
        scored: sequences to score.
        known: [M] other ids to calibrate on, or what they have led to; None for neither.

    Raises:
        ConfigError: nothing that is scored reads a packed token.
    """

    def __init__(
        self, model: Any, scored: list[Sequence], known: torch.Tensor | Calibration | None
    ) -> None:
        self._scored = [sequence for sequence in scored if bool(sequence.scored[_FIRST:].any())]
        if not self._scored:
            raise ConfigError(
                f"no sequence has scored tokens after its first {_FIRST}, which read nothing packed"
            )
        self._model, self._known = model, known

    @classmethod
    def open(
        cls,
        folder: Path,
        text: Path | None,
        tokens: int,
        device: str,
        *,
        dtype: str = "auto",
        every_token: bool = False,
    ) -> ModelRun:
        """Load a model and its text; what is left of the text calibrates.

        `dtype` is that of the weights, `auto` the one of the files; `every_token` scores tokens
        outside the model's own turns, too.

        Raises:
            ConfigError: the folder holds no model, or the text is too short.
        """
        if not (folder / "config.json").is_file():
            raise ConfigError(f"{folder} is no folder of a transformers model (no config.json)")
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        pictures = getattr(config, "vision_config", None) is not None
        kind: Any = AutoModelForImageTextToText if pictures else AutoModelForCausalLM
        model = kind.from_pretrained(folder, dtype=dtype, local_files_only=True).to(device).eval()
        if text is None:
            others = write_sequence(model, _OWN_CALIBRATION_TOKENS, 1).ids
            return cls(model, [write_sequence(model, tokens, 0)], others)
        sequences = read_sequences(folder, text)
        scored: list[Sequence] = []
        while sequences and sum(len(sequence.ids) for sequence in scored) < tokens:
            scored.append(sequences.pop(0))
        if not sequences:
            raise ConfigError(
                f"{text} ends with the {tokens} tokens to score; more are needed to calibrate (put "
                "the text's first token between texts, or see --tokens)"
            )
        if every_token:
            scored = [Sequence(ids, torch.ones_like(marks)) for ids, marks in scored]
        others = torch.cat([sequence.ids for sequence in sequences])[:_CALIBRATION_TOKENS]
        return cls(model, scored, others)

    def describe(self) -> str:
        """One line that says what is scored."""
        total = sum(len(sequence.ids) for sequence in self._scored)
        scored = sum(int(sequence.scored[_FIRST:].sum()) for sequence in self._scored)
        return (
            f"{self._model.config.model_type}, {len(self._scored)} texts, {total} tokens in chunks "
            f"of {_CHUNK}, {scored} scored; first {_SINK} and latest {_RECENT} exact everywhere"
        )

    def score_all(self, methods: Iterable[Method]) -> Iterator[ModelRow]:
        """The floor (stock cache and attention) first, then every method."""
        yield self.score(None)
        for method in methods:
            yield self.score(method)

    @torch.no_grad()
    def score(self, method: Method | None) -> ModelRow:
        """One method; None is the floor: stock cache and attention in the model's own dtype."""
        divergence, same, loss = [], [], []
        for sequence in self._scored:
            # Both read the same chunks side by side, so that only one chunk of logits is kept.
            exact, cache = self._make(RotorQuantConfig(16), None), self._cache(method)
            # The last token has no successor that could be compared.
            for low in range(0, len(sequence.ids) - 1, _CHUNK):
                chunk = slice(low, min(low + _CHUNK, len(sequence.ids) - 1))
                ids = sequence.ids[chunk][None].to(self._model.device)
                wanted = self._logits(ids, exact, ATTENTION_NAME)
                given = self._logits(ids, cache, "sdpa" if method is None else ATTENTION_NAME)
                chosen = sequence.scored[chunk].to(wanted.device)
                if low < _FIRST or not bool(chosen.any()):
                    continue
                if method is not None:
                    _check_stored(cache, method)
                wanted, given = wanted[chosen], given[chosen]
                divergence.append((wanted.exp() * (wanted - given)).sum(-1))
                same.append(wanted.argmax(-1) == given.argmax(-1))
                following = sequence.ids[chunk.start + 1 : chunk.stop + 1].to(chosen.device)
                loss.append(-given.gather(-1, following[chosen, None])[:, 0])
        spread = torch.cat(divergence)
        return ModelRow(
            "floor (stock)" if method is None else method.name,
            16 if method is None else method.bits,
            _token_bytes(cache),
            float(spread.mean()),
            float(spread.median()),
            float(spread.quantile(0.99)),
            float(torch.cat(same).double().mean()),
            float(torch.cat(loss).mean().exp()),
            len(spread),
            "DynamicCache" if method is None else ", ".join(sorted(_dtypes(cache))),
        )

    def _cache(self, method: Method | None) -> Any:
        if method is None:
            return DynamicCache(config=self._model.config.get_text_config(decoder=True))
        if method.known == "nothing":
            return self._make(method.config, None)
        if isinstance(self._known, torch.Tensor):
            self._known = calibrate(self._model, self._known)
        known = self._known
        if known is not None and method.known == "offset":
            layers = {
                index: tuple(offset_alone(stream) for stream in streams)
                for index, streams in known.layers.items()
            }
            known = replace(known, layers=layers)
        return self._make(method.config, known)

    def _make(self, config: RotorQuantConfig, known: Calibration | None) -> RotorQuantCache:
        """A cache with these options and the exact tokens that every method has."""
        same = replace(config, sink_tokens=_SINK, recent_tokens=_RECENT, page_tokens=_PAGE)
        return RotorQuantCache.from_config(self._model, same, known)

    def _logits(self, ids: torch.Tensor, cache: Any, attention: str) -> torch.Tensor:
        """Log-probabilities [T, vocabulary] float64: the divergence of near twins is tiny."""
        # Two caches take turns on one model, and each needs its own attention.
        self._model.config.get_text_config(decoder=True)._attn_implementation = attention
        logits: torch.Tensor = self._model(ids, past_key_values=cache).logits[0]
        return logits.double().log_softmax(-1)


def _global_layers(cache: Any) -> list[GlobalLayer]:
    return [layer for layer in cache.layers if isinstance(layer, GlobalLayer)]


def _dtypes(cache: Any) -> set[str]:
    return {
        str(rows.dtype).removeprefix("torch.")
        for layer in _global_layers(cache)
        for rows in layer.tensors()["packed"]
    }


def _check_stored(cache: Any, method: Method) -> None:
    """Fail unless every global layer read packed pages, in the form that the method names."""
    for layer in _global_layers(cache):
        assert layer.packed_tokens > 0, "nothing was packed when a token was scored"
    kinds = _dtypes(cache)
    # Block formats keep int8 codes, all others uint8; scales are float16.
    packed = kinds <= {"uint8", "int8", "float16"} and kinds & {"uint8", "int8"}
    assert bool(packed) == (method.bits < 16), f"{method.name} is stored as {kinds}"


def _token_bytes(cache: Any) -> float:
    total = 0.0
    for layer in _global_layers(cache):
        rows = layer.tensors()["packed"]
        total += sum(tensor[:, :, :1].nbytes for tensor in rows)
    return total
