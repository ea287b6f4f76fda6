"""Which weights, KV bits and context fit a device: pure arithmetic on plain numbers. No torch.

The choice: of all pairs of weights and KV bits that reach the asked context (by default the model's
longest) take the one with the least expected error. If none reaches it, take the longest context,
but give up half the weight precision only if that at least doubles the context.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rqchat.engine.hardware import DeviceInfo
from rqchat.engine.memory import Budget, MemoryBytes, Weights, weights_of
from rqchat.engine.settings import DEFAULT_IMAGE_TOKENS, KV_BITS, Settings
from rqchat.engine.shape import ModelShape
from rqchat.errors import DoesNotFitError, UsageError

__all__ = ["Candidate", "MemoryPlan", "make_plan"]

_GPU_LADDER = ("bf16", "int8", "int4", "int2")
_CPU_LADDER = ("fp32", "bf16")
_CPU_KV_BITS = 4
_MIN_CONTEXT_TOKENS = 2048
_CONTEXT_STEP_TOKENS = 64
_CHUNK_TOKENS = 512

# Expected |x - x'|^2 / |x|^2 of a Gaussian under Lloyd-Max (J. Max, 1960; 5 to 8 bits computed).
_KV_ERROR = {16: 0.0, 8: 4.1e-5, 6: 6.4e-4, 5: 2.5e-3, 4: 9.5e-3, 3: 3.45e-2, 2: 0.1175}


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to fill the device: weights, KV bits, and the longest context they leave room for.

    `sliding_bits` is what the sliding windows keep, 16 or 8.
    """

    weights: str
    weight_bits: int
    kv_bits: int
    context_tokens: int
    bytes: MemoryBytes
    sliding_bits: int = 16

    def as_json(self) -> dict[str, Any]:
        """The object that `rqchat plan --json` prints."""
        return {
            "weights": self.weights,
            "weight_bits": self.weight_bits,
            "kv_bits": self.kv_bits,
            "context": self.context_tokens,
            "bytes": self.bytes.as_json(),
        }


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What will be loaded, and what else would have fitted.

    Attributes:
        device: what it was planned for.
        chosen: the pair that is taken.
        candidates: every pair that fits, best weights first, then best KV bits.
        reason: why that one, in a few sentences.
        asked_tokens: the context that was asked for.
        image_tokens: soft-token budget of one picture.
        chunk_tokens: tokens that one prefill step reads; a picture always fits into one.
    """

    device: DeviceInfo
    chosen: Candidate
    candidates: tuple[Candidate, ...]
    reason: str
    asked_tokens: int
    image_tokens: int
    chunk_tokens: int

    def as_json(self, model: str) -> dict[str, Any]:
        """The object that `rqchat plan --json` prints."""
        return {
            "model": model,
            "device": {
                "name": self.device.name,
                "total_bytes": self.device.total_bytes,
                "free_bytes": self.device.free_bytes,
                "source": self.device.source,
            },
            "chosen": self.chosen.as_json(),
            "candidates": [candidate.as_json() for candidate in self.candidates],
            "reason": self.reason,
        }


def make_plan(shape: ModelShape, device: DeviceInfo, settings: Settings) -> MemoryPlan:
    """Plans `shape` on `device` as `settings` asks.

    Raises:
        UsageError: a context beyond the model's.
        DoesNotFitError: not even the smallest pair fits.
    """
    return _Planner(shape, device, settings).plan()


class _Planner:
    """The inputs of one plan, so that its steps need not pass them around."""

    def __init__(self, shape: ModelShape, device: DeviceInfo, settings: Settings) -> None:
        self.shape, self.device, self.settings = shape, device, settings
        self.image_tokens = settings.image_tokens or DEFAULT_IMAGE_TOKENS
        self.chunk_tokens = max(_CHUNK_TOKENS, self.image_tokens + 2)
        self.asked = settings.context_tokens or shape.max_context_tokens
        if self.asked > shape.max_context_tokens:
            raise UsageError(
                f"--context is {self.asked:,}; this model knows sequences of at most"
                f" {shape.max_context_tokens:,} tokens"
            )
        self.least = min(self.asked, _MIN_CONTEXT_TOKENS)
        ladder = _GPU_LADDER if device.is_gpu else _CPU_LADDER
        names = (settings.weights,) if settings.weights else ladder
        self.ladder = [weights_of(name) for name in names]
        self.kv_ladder = self._kv_ladder()
        self.budget = Budget(
            shape, device.total_bytes, device.is_gpu, self.chunk_tokens, self.image_tokens
        )

    def _kv_ladder(self) -> tuple[int, ...]:
        if self.settings.kv_bits is not None:
            return (self.settings.kv_bits,)
        ladder = tuple(sorted(KV_BITS, reverse=True))
        # On a CPU a short of memory is rare and the packed cache is what there is to show
        return ladder if self.device.is_gpu else tuple(b for b in ladder if b <= _CPU_KV_BITS)

    def plan(self) -> MemoryPlan:
        fitting = [
            candidate
            for weights in self.ladder
            for kv_bits in self.kv_ladder
            if (candidate := self._longest(weights, kv_bits)) is not None
        ]
        if not fitting:
            raise self._does_not_fit()
        chosen = self._choose(fitting)
        return MemoryPlan(
            device=self.device,
            chosen=chosen,
            candidates=tuple(fitting),
            reason=self._reason(chosen),
            asked_tokens=self.asked,
            image_tokens=self.image_tokens,
            chunk_tokens=self.chunk_tokens,
        )

    def _longest(self, weights: Weights, kv_bits: int) -> Candidate | None:
        """The candidate with the longest context up to the asked one; None if too short.

        Sliding windows take 8 bits where 16 would cost context.
        """
        full = self._longest_with(weights, kv_bits, 16)
        if full is not None and full.context_tokens == self.asked:
            return full
        return self._longest_with(weights, kv_bits, 8)

    def _longest_with(self, weights: Weights, kv_bits: int, sliding_bits: int) -> Candidate | None:
        def used(tokens: int) -> MemoryBytes:
            return self.budget.of(weights, kv_bits, sliding_bits, tokens)

        def fits(tokens: int) -> bool:
            return used(tokens).total <= self.device.free_bytes

        if not fits(self.least):
            return None
        tokens = self.asked
        if not fits(tokens):
            low, high = self.least // _CONTEXT_STEP_TOKENS, tokens // _CONTEXT_STEP_TOKENS + 1
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if fits(middle * _CONTEXT_STEP_TOKENS) else (low, middle)
            tokens = max(low * _CONTEXT_STEP_TOKENS, self.least)
        return Candidate(weights.name, weights.bits, kv_bits, tokens, used(tokens), sliding_bits)

    def _error(self, candidate: Candidate) -> float:
        """Expected relative error; packed KV counts by the share of layers that read it."""
        packed, sliding = self.shape.global_kv.layers, self.shape.sliding_kv.layers
        kv_error = packed * _KV_ERROR[candidate.kv_bits]
        kv_error += sliding * _KV_ERROR[candidate.sliding_bits]
        return weights_of(candidate.weights).error + kv_error / (packed + sliding)

    def _choose(self, fitting: list[Candidate]) -> Candidate:
        reaching = [c for c in fitting if c.context_tokens == self.asked]
        if reaching:
            return min(reaching, key=self._error)  # the first of equals: the higher weights
        chosen: Candidate | None = None
        for weights in self.ladder:
            rung = [c for c in fitting if c.weights == weights.name]
            longest = max(rung, key=lambda c: c.context_tokens, default=None)
            if longest and (chosen is None or longest.context_tokens >= 2 * chosen.context_tokens):
                chosen = longest
        assert chosen is not None
        return chosen

    def _reason(self, chosen: Candidate) -> str:
        used, free = _gb(chosen.bytes.total), _gb(self.device.free_bytes)
        text = (
            f"{chosen.weights} weights and {_cache_of(chosen.kv_bits)} hold"
            f" {chosen.context_tokens:,} tokens in {used} of the {free} that are free on"
            f" {self.device.name}."
        )
        if chosen.context_tokens < self.asked:
            return f"{text} The {self.asked:,} tokens asked for do not fit with any weights."
        return text + self._next_better(chosen)

    def _next_better(self, chosen: Candidate) -> str:
        """What kept the plan from the next higher KV bits and weights, in bytes."""
        parts = []
        names = [weights.name for weights in self.ladder]
        above = self.kv_ladder[: self.kv_ladder.index(chosen.kv_bits)]
        if above:
            parts.append((f"{above[-1]}-bit KV", weights_of(chosen.weights), above[-1]))
        position = names.index(chosen.weights)
        if position:
            weights = self.ladder[position - 1]
            parts.append((f"{weights.name} weights", weights, self.kv_ladder[-1]))
        said = []
        for name, weights, kv_bits in parts:
            missing = self.budget.of(weights, kv_bits, 8, self.asked).total - self.device.free_bytes
            if missing > 0:
                said.append(f"{name} would need {_gb(missing)} more")
        return f" For that context {' and '.join(said)}." if said else ""

    def _does_not_fit(self) -> DoesNotFitError:
        smallest, kv_bits = self.ladder[-1], self.kv_ladder[-1]
        need = self.budget.of(smallest, kv_bits, 8, self.least)
        device = self.device
        missing, used = need.total - device.free_bytes, device.total_bytes - device.free_bytes
        ways = ["take a smaller model, such as --model google/gemma-4-E4B-it or --model pocket"]
        if used > missing:
            ways.insert(0, f"close programs that use {device.name} ({_gb(used)} are taken)")
        if self.settings.weights or self.settings.kv_bits:
            ways.insert(0, "leave out --weights and --kv-bits")
        return DoesNotFitError(
            f"{_gb(missing)} are missing: {smallest.name} weights, {_cache_of(kv_bits)}"
            f" and {self.least:,} tokens of context need {_gb(need.total)}, and"
            f" {device.name} has {_gb(device.free_bytes)} free of {_gb(device.total_bytes)};"
            f" {', or '.join(ways)}"
        )


def _gb(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.2f} GB"


def _cache_of(bits: int) -> str:
    return f"{'an' if bits == 8 else 'a'} {bits}-bit KV cache"
