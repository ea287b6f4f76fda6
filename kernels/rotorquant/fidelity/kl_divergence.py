"""KL divergence of a model's next-token distribution under every way to store its cache.

The reference reads the same tokens in the same chunks from exact storage. Every cache has the same
exact first and latest tokens, and only tokens are scored whose global layers read packed pages;
their dtype is checked each time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, DynamicCache

from rotorquant.attend.entry import ATTENTION_NAME
from rotorquant.cache import RotorQuantCache
from rotorquant.calibration.calibration import Calibration, calibrate
from rotorquant.calibration.statistics import offset_alone
from rotorquant.config import RotorQuantConfig
from rotorquant.exceptions import ConfigError
from rotorquant.fidelity.methods import Method
from rotorquant.fidelity.peers import PeerCache
from rotorquant.fidelity.scored_text import Sequence, read_sequences, write_sequence
from rotorquant.layers.global_layer import GlobalLayer
from rotorquant.layout import LEARNING_TOKENS
from rotorquant.mark import Mark

__all__ = ["ModelRow", "ModelRun"]

_CHUNK = 64
_SINK, _RECENT, _PAGE = 64, 512, 64
_FIRST = _SINK + _RECENT + _PAGE + _CHUNK  # a chunk from here on reads a packed page
# A text that is longer than twice this is a prompt until here, as layers learn from long prompts
_LEARNED = _FIRST + LEARNING_TOKENS
_CALIBRATION_TOKENS = 8192
_OWN_CALIBRATION_TOKENS = 2048  # where the model has to write them itself


@dataclass(frozen=True, slots=True)
class ModelRow:
    """The result of one method on one text.

    Attributes:
        name, bits: see `Method`.
        token_bytes: of a packed token, all global layers together, counted on the tensors.
        mean, median, high: KL divergence from the reference in nats, `high` its 99 % quantile.
        mean_error: standard error of `mean`, as if the tokens were independent.
        overlap: mean of 1 - total variation, the share of probability that both give alike.
        top_1: share of tokens whose likeliest successor is the reference's.
        perplexity: of the text.
        tokens: scored.
        stored: dtypes in which the tokens that were read lay.
    """

    name: str
    bits: int
    token_bytes: float
    mean: float
    mean_error: float
    overlap: float
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
        most: tokens of a sequence to score.

    Raises:
        ConfigError: nothing that is scored reads a packed token.
    """

    def __init__(
        self,
        model: Any,
        scored: list[Sequence],
        known: torch.Tensor | Calibration | None,
        most: int | None = None,
    ) -> None:
        self._scored = [sequence for sequence in scored if bool(sequence.scored[_FIRST:].any())]
        if not self._scored:
            raise ConfigError(
                f"no sequence has scored tokens after its first {_FIRST}, which read nothing packed"
            )
        self._model, self._known, self._most = model, known, most
        # The exact cache of every sequence behind its prompt, which all methods are compared with
        self._exact: dict[int, tuple[RotorQuantCache, Mark]] = {}

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
        most: int | None = None,
    ) -> ModelRun:
        """Load a model and its text; what is left of the text calibrates.

        `folder` may be a GGUF file. `dtype` is that of the weights, `auto` the one of the files;
        `every_token` scores tokens outside the model's own turns, too; `most` tokens of each text
        are scored.

        Raises:
            ConfigError: the folder holds no model, or the text is too short.
        """
        model = _load(folder, dtype).to(device).eval()
        if text is None:
            others = write_sequence(model, _OWN_CALIBRATION_TOKENS, 1).ids
            return cls(model, [write_sequence(model, tokens, 0)], others)
        sequences = read_sequences(folder, text)
        scored: list[Sequence] = []
        if len(sequences) == 1:  # what --tokens leaves of the only text calibrates
            sequences = _cut(sequences[0], tokens)
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
        return cls(model, scored, others, most)

    def describe(self) -> str:
        """One line that says what is scored."""
        total = sum(len(sequence.ids) for sequence in self._scored)
        scored = sum(
            int(each.scored[_first(each) : self._stop(each)].sum()) for each in self._scored
        )
        prompts = sorted({_first(each) for each in self._scored})
        return (
            f"{self._model.config.model_type}, {len(self._scored)} texts, {total} tokens, {scored} "
            f"scored in chunks of {_CHUNK} behind prompts of {' or '.join(map(str, prompts))}; "
            f"first {_SINK} and latest {_RECENT} exact everywhere"
        )

    def score_all(self, methods: Iterable[Method]) -> Iterator[ModelRow]:
        """The floor (stock cache and attention) first, then every method."""
        yield self.score(None)
        for method in methods:
            yield self.score(method)

    @torch.no_grad()
    def score(self, method: Method | None) -> ModelRow:
        """One method; None is the floor: stock cache and attention in the model's own dtype."""
        found = _Found([], [], [], [])
        for index, sequence in enumerate(self._scored):
            exact, cache = self._reference(index), self._cache(method)
            attention = ATTENTION_NAME if isinstance(cache, RotorQuantCache) else "sdpa"
            self._read_prompt(sequence, cache, attention)
            # Both read the same chunks side by side, so that only one chunk of logits is kept.
            for low in range(_first(sequence), self._stop(sequence), _CHUNK):
                chunk = slice(low, min(low + _CHUNK, self._stop(sequence)))
                if not bool(sequence.scored[low:].any()):
                    break
                if hasattr(cache, "flush"):
                    cache.flush()
                ids = sequence.ids[chunk][None].to(self._model.device)
                wanted = self._logits(ids, exact, ATTENTION_NAME)
                given = self._logits(ids, cache, attention)
                chosen = sequence.scored[chunk].to(wanted.device)
                if method is not None and method.peer is None:
                    _check_stored(cache, method)
                following = sequence.ids[chunk.start + 1 : chunk.stop + 1].to(chosen.device)
                found.add(wanted[chosen], given[chosen], following[chosen])
        return found.row(method, cache)

    def _stop(self, sequence: Sequence) -> int:
        # The last token has no successor that could be compared.
        last = len(sequence.ids) - 1
        return last if self._most is None else min(last, _first(sequence) + self._most)

    def _reference(self, index: int) -> RotorQuantCache:
        """The exact cache of a sequence behind its prompt, which is read once for all methods."""
        if index not in self._exact:
            cache = self._make(RotorQuantConfig(16), None)
            self._read_prompt(self._scored[index], cache, ATTENTION_NAME)
            self._exact[index] = cache, cache.mark()
        cache, mark = self._exact[index]
        cache.rewind(mark)
        return cache

    def _read_prompt(self, sequence: Sequence, cache: Any, attention: str) -> None:
        """In one pass, which reads itself exactly: what follows alone sees what was packed."""
        ids = sequence.ids[: _first(sequence)][None].to(self._model.device)
        self._attend_by(attention)
        self._model(ids, past_key_values=cache, logits_to_keep=1)

    def _cache(self, method: Method | None) -> Any:
        text = self._model.config.get_text_config(decoder=True)
        if method is None:
            return DynamicCache(config=text)
        if method.peer is not None:
            return PeerCache(text, method.peer, _SINK, _RECENT)
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
        self._attend_by(attention)
        logits: torch.Tensor = self._model(ids, past_key_values=cache).logits[0]
        return logits.double().log_softmax(-1)

    def _attend_by(self, attention: str) -> None:
        # Two caches take turns on one model, and each needs its own attention.
        self._model.config.get_text_config(decoder=True)._attn_implementation = attention


class _Found(NamedTuple):
    """What was found on the tokens so far, a tensor for each chunk."""

    divergence: list[torch.Tensor]
    overlap: list[torch.Tensor]
    same: list[torch.Tensor]
    loss: list[torch.Tensor]

    def add(self, wanted: torch.Tensor, given: torch.Tensor, following: torch.Tensor) -> None:
        """Log-probabilities [N, vocabulary] of the reference and the method, and next ids [N]."""
        likely = wanted.exp()
        self.divergence.append((likely * (wanted - given)).sum(-1))
        self.overlap.append(torch.minimum(likely, given.exp()).sum(-1))
        self.same.append(wanted.argmax(-1) == given.argmax(-1))
        self.loss.append(-given.gather(-1, following[:, None])[:, 0])

    def row(self, method: Method | None, cache: Any) -> ModelRow:
        """All tokens together; `cache` is one that the method has filled."""
        spread = torch.cat(self.divergence)
        error = float(spread.std()) / len(spread) ** 0.5
        own = isinstance(cache, RotorQuantCache)
        return ModelRow(
            "floor (stock)" if method is None else method.name,
            16 if method is None else method.bits,
            cache.token_bytes if isinstance(cache, PeerCache) else _token_bytes(cache),
            float(spread.mean()),
            error,
            float(torch.cat(self.overlap).mean()),
            float(spread.median()),
            float(spread.quantile(0.99)),
            float(torch.cat(self.same).double().mean()),
            float(torch.cat(self.loss).mean().exp()),
            len(spread),
            ", ".join(sorted(_dtypes(cache))) if own else type(cache).__name__,
        )


def _load(folder: Path, dtype: str) -> Any:
    """The model of a folder, or of a GGUF file as transformers reads it."""
    source: dict[str, Any] = {"local_files_only": True}
    if folder.suffix == ".gguf" and folder.is_file():
        source["gguf_file"], folder = folder.name, folder.parent
    elif not (folder / "config.json").is_file():
        raise ConfigError(f"{folder} is no folder of a transformers model (no config.json)")
    config = AutoConfig.from_pretrained(folder, **source)
    pictures = getattr(config, "vision_config", None) is not None
    kind: Any = AutoModelForImageTextToText if pictures else AutoModelForCausalLM
    return kind.from_pretrained(folder, dtype=dtype, **source)


def _cut(sequence: Sequence, tokens: int) -> list[Sequence]:
    """The first `tokens` of a text and, behind its first token, the others."""
    if len(sequence.ids) <= tokens:
        return [sequence]
    parts = [Sequence(*(field[:tokens] for field in sequence))]
    return [*parts, Sequence(*(torch.cat((field[:1], field[tokens:])) for field in sequence))]


def _first(sequence: Sequence) -> int:
    """The first token that is scored."""
    return _LEARNED if len(sequence.ids) > 2 * _LEARNED else _FIRST


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
