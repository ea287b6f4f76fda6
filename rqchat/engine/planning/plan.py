"""Which weights, KV bits and context fit a device: pure arithmetic on plain numbers. No torch.

The choice: of all pairs of weights and KV bits that reach the asked context (by default the model's
longest) take the one with the least expected error. If none reaches it, take the longest context.
KV bits do not fall below 4 unasked, weights only where 4 bits leave fewer than 65,536 tokens, and
then to 3. `--prefer` asks for something else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rqchat.engine.planning.candidate import Candidate, choose, suggest_models
from rqchat.engine.planning.formats import (
    LEAST_WEIGHT_BITS,
    SOUND_WEIGHT_BITS,
    Weights,
    loss_in_words,
    weights_of,
)
from rqchat.engine.planning.gpus import DeviceInfo
from rqchat.engine.planning.memory import Budget, Economy, MemoryBytes, short_chunk
from rqchat.engine.planning.shape import ModelShape
from rqchat.engine.settings import DEFAULT_IMAGE_TOKENS, IMAGE_TOKEN_BUDGETS, KV_BITS, Settings
from rqchat.engine.sizes import gib
from rqchat.errors import DoesNotFitError, UsageError

__all__ = ["Candidate", "MemoryPlan", "make_plan", "plan_by_default", "with_page_budget"]

_GPU_LADDER = ("bf16", "int8", "int4", "int3")
_CPU_LADDER, _SMALL_LADDER = ("bf16", "int8", "int4"), ("fp32", "bf16")
# With fewer, the caches of a processor hold the weights, and float32 is the fastest
_SMALL_PARAMETERS = 50_000_000
_CPU_KV_BITS = 4
_LEAST_KV_BITS = 4  # a cache of fewer loses more than a shorter context
_MIN_CONTEXT_TOKENS = 2048
_CONTEXT_STEP_TOKENS = 64
# The least harm first: a tenth of a second for a picture, one matrix in 8 bits, then the windows
# that most layers read
_ECONOMIES = (
    *(Economy(16, 16), Economy(16, 16, on_host=True), Economy(8, 16)),
    *(Economy(8, 16, on_host=True), Economy(8, 8, on_host=True), Economy(16, 8, on_host=True)),
)
_ECONOMIES_WITHOUT_HOST = (Economy(16, 16), Economy(8, 16), Economy(8, 8), Economy(16, 8))
_HOST_SPARE_BYTES = 2 * 2**30  # of main memory, which everything else on the machine needs too


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What will be loaded, and what else would have fitted.

    Attributes:
        device: what it was planned for.
        chosen: the pair that is taken.
        candidates: every pair that fits, best weights first, then best KV bits.
        reason: why that one and what was given up for it, in up to five lines.
        asked_tokens: the context that was asked for.
        image_tokens: soft-token budget of one picture.
        page_tokens: the most that pages, screenshots and other pictures with fine detail get; 0
            where all pictures have the same.
    """

    device: DeviceInfo
    chosen: Candidate
    candidates: tuple[Candidate, ...]
    reason: str
    asked_tokens: int
    image_tokens: int
    page_tokens: int = 0

    def budget_of(self, wanted_tokens: int) -> int:
        """The soft-token budget of a picture whose content wants so many."""
        if not self.page_tokens:
            return self.image_tokens
        return max(self.image_tokens, min(wanted_tokens, self.page_tokens))

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


def make_plan(
    shape: ModelShape,
    device: DeviceInfo,
    settings: Settings,
    formats: Sequence[str] | None = None,
) -> MemoryPlan:
    """Plans `shape` on `device` as `settings` asks.

    Args:
        shape: of the model.
        device: to plan for.
        settings: what was asked.
        formats: the weights that its checkpoint can be loaded as; None for those of the device.

    Raises:
        UsageError: a context beyond the model's, or weights that its checkpoint does not hold.
        DoesNotFitError: not even the smallest pair fits.
    """
    return _Planner(shape, device, settings, formats).plan()


def with_page_budget(
    plan: MemoryPlan, shape: ModelShape, settings: Settings, formats: Sequence[str] | None
) -> MemoryPlan:
    """`plan` with the largest budget for pages that costs no bits of weights, head and KV and no
    context; as it is where the user has named one budget for all pictures, and for small models.

    It may cost what is cheapest: windows of 8 bits, or a shorter step of the prompt.
    """
    is_small = shape.parameters < _SMALL_PARAMETERS
    if settings.image_tokens is not None or not shape.vision or is_small:
        return plan
    chosen = plan.chosen
    for budget in sorted(IMAGE_TOKEN_BUDGETS, reverse=True):
        if budget <= plan.image_tokens:
            break
        # The context is left to be found again: asked for, it would change what is preferred
        asked = replace(
            settings, image_tokens=budget, weights=chosen.weights, kv_bits=chosen.kv_bits
        )
        try:
            other = make_plan(shape, plan.device, asked, formats).chosen
        except DoesNotFitError:
            continue
        kept = (other.weights, other.head_bits, other.context_tokens)
        if kept == (chosen.weights, chosen.head_bits, chosen.context_tokens):
            return replace(plan, chosen=other, page_tokens=budget)
    return replace(plan, page_tokens=plan.image_tokens)


def plan_by_default(shape: ModelShape, device: DeviceInfo) -> Candidate | None:
    """What would be taken of a model without any override; None if it does not fit.

    Without its words, which would ask for the plans of still other models.
    """
    planner = _Planner(shape, device, Settings(), None)
    fitting = planner._fitting()
    return planner._chosen(fitting) if fitting else None


class _Planner:
    """The inputs of one plan, so that its steps need not pass them around."""

    def __init__(
        self,
        shape: ModelShape,
        device: DeviceInfo,
        settings: Settings,
        formats: Sequence[str] | None,
    ) -> None:
        self.shape, self.device, self.settings = shape, device, settings
        self.image_tokens = settings.image_tokens or DEFAULT_IMAGE_TOKENS
        self.asked = settings.context_tokens or shape.max_context_tokens
        if self.asked > shape.max_context_tokens:
            raise UsageError(
                f"--context is {self.asked:,}; this model knows sequences of at most"
                f" {shape.max_context_tokens:,} tokens: ask for that or fewer, or leave it out"
            )
        self.least = min(self.asked, _MIN_CONTEXT_TOKENS)
        self.ladder = self._ladder(formats)
        # What the checkpoint has, of which the plan may take less
        self.stored_bits = max((weights_of(name).bits for name in formats or ()), default=0)
        self.kv_ladder = self._kv_ladder()
        chunk_tokens = short_chunk(self.image_tokens)
        # ROCm's torch has no segments that grow, and Metal an allocator of its own
        expandable = device.torch_name.startswith("cuda") and device.source != "amdgpu"
        sizes = chunk_tokens, self.image_tokens
        self.budget = Budget(shape, device.is_gpu, *sizes, expandable, device.has_kernels)

    def _ladder(self, formats: Sequence[str] | None) -> list[Weights]:
        on_cpu = _SMALL_LADDER if self.is_small else _CPU_LADDER
        names = tuple(formats or ()) or (_GPU_LADDER if self.device.is_gpu else on_cpu)
        wanted = self.settings.weights
        if wanted and formats is not None and wanted not in names:
            raise UsageError(
                f"--weights is {wanted!r}; this checkpoint holds {', '.join(names)} weights"
            )
        ladder = [weights_of(name) for name in ((wanted,) if wanted else names)]
        if not self.device.is_gpu:
            ladder = [weights.on_cpu for weights in ladder]
        # A file that holds nothing better is read as it is
        enough = [weights for weights in ladder if weights.bits >= LEAST_WEIGHT_BITS]
        return ladder if wanted else enough or ladder

    def _kv_ladder(self) -> tuple[int, ...]:
        if self.settings.kv_bits is not None:
            return (self.settings.kv_bits,)
        least = min(KV_BITS) if self.settings.prefer == "context" else _LEAST_KV_BITS
        # On a CPU memory is seldom short, and the packed cache is what there is to show
        most = max(KV_BITS) if self.device.is_gpu else _CPU_KV_BITS
        return tuple(sorted((b for b in KV_BITS if least <= b <= most), reverse=True))

    def _economies(self, weights: Weights) -> list[Economy]:
        """The economies to try, the least harm first.

        On a CPU packed weights have a packed head: it is read for every token, as they are.
        """
        own = None if self.device.is_gpu else min(16, max(8, weights.bits))
        bits = self.settings.head_bits or own
        economies = _ECONOMIES if self.device.has_own_memory else _ECONOMIES_WITHOUT_HOST
        return [e for e in economies if bits in (None, e.head_bits)]

    @property
    def is_small(self) -> bool:
        """Whether the model is so small that fewer bits make a CPU no faster."""
        return self.shape.parameters < _SMALL_PARAMETERS

    @property
    def prefer(self) -> str | None:
        """What was asked for; on a CPU speed where nothing was, as it is what is short there."""
        is_slow = not (self.device.is_gpu or self.is_small or self.settings.weights)
        return self.settings.prefer or ("speed" if is_slow else None)

    def plan(self) -> MemoryPlan:
        fitting = self._fitting()
        if not fitting:
            raise self._does_not_fit()
        chosen = self._chosen(fitting)
        return MemoryPlan(
            device=self.device,
            chosen=chosen,
            candidates=tuple(fitting),
            reason="\n".join(self._reasons(chosen)),
            asked_tokens=self.asked,
            image_tokens=self.image_tokens,
        )

    def _fitting(self) -> list[Candidate]:
        return [
            candidate
            for weights in self.ladder
            for kv_bits in self.kv_ladder
            if (candidate := self._longest(weights, kv_bits)) is not None
        ]

    def _chosen(self, fitting: Sequence[Candidate]) -> Candidate:
        return choose(
            fitting,
            self.shape,
            self.asked,
            self.prefer,
            context_given=self.settings.context_tokens is not None,
        )

    def _longest(self, weights: Weights, kv_bits: int) -> Candidate | None:
        """The candidate with the longest context up to the asked one; None if too short.

        An economy is taken only where what costs less does not reach the asked context.
        """
        best: Candidate | None = None
        for economy in self._economies(weights):
            found = self._longest_with(weights, kv_bits, economy)
            if found and (best is None or found.context_tokens > best.context_tokens):
                best = found
            if best and best.context_tokens == self.asked:
                break
        return best

    def _longest_with(self, weights: Weights, kv_bits: int, economy: Economy) -> Candidate | None:
        def used(tokens: int) -> MemoryBytes:
            return self.budget.of(weights, kv_bits, economy, tokens)

        def fits(tokens: int) -> bool:
            return used(tokens).total <= self.device.free_bytes

        if not fits(self.least) or not self._fits_host(weights, economy):
            return None
        tokens = self.asked
        if not fits(tokens):
            low, high = self.least // _CONTEXT_STEP_TOKENS, tokens // _CONTEXT_STEP_TOKENS + 1
            while high - low > 1:
                # So many steps as `low` fit, so many as `high` do not.
                middle = (low + high) // 2
                low, high = (middle, high) if fits(middle * _CONTEXT_STEP_TOKENS) else (low, middle)
            # `least` fits, though it may be no multiple of the step.
            tokens = max(low * _CONTEXT_STEP_TOKENS, self.least)
        given = weights, kv_bits, economy, tokens
        read = self.budget.read_bytes(*given)
        # What is free beyond that lets more of a prompt be read at a time.
        longest = self.budget.with_longest_chunk(*given, self.device.free_bytes)
        return Candidate(
            weights.name,
            weights.bits,
            kv_bits,
            tokens,
            longest.of(*given),
            economy.sliding_bits,
            economy.head_bits,
            economy.on_host,
            longest.chunk_tokens,
            read,
            self.device.bandwidth / read,
        )

    def _fits_host(self, weights: Weights, economy: Economy) -> bool:
        free = self.device.host_free_bytes
        if not economy.on_host or free is None:
            return True
        needed = self.budget.pinned_bytes(weights, economy.head_bits)
        return needed == 0 or needed + _HOST_SPARE_BYTES <= free

    def _reasons(self, chosen: Candidate) -> Iterable[str]:
        used, free = gib(chosen.bytes.total), gib(self.device.free_bytes)
        head = " and an 8-bit head" if chosen.head_bits == 8 else ""
        yield (
            f"{chosen.weights} weights{head} with {_cache_of(chosen.kv_bits)} hold"
            f" {chosen.context_tokens:,} tokens in {used} of the {free} that are free on"
            f" {self.device.name}."
        )
        given_up = ", ".join(self._given_up(chosen))
        if given_up:
            yield f"Given up for that: {given_up}. {loss_in_words(chosen.divergence).capitalize()}."
        yield from self._lying_on_host(chosen)
        if self.settings.prefer:
            yield f"--prefer {self.settings.prefer} was asked for."
        elif self.prefer and chosen.weight_bits < 16:
            yield (
                "A processor reads all weights for every token, so fewer bits are faster; --prefer"
                " quality takes the most that fit."
            )
        elif chosen.context_tokens == self.asked:
            yield from self._next_better(chosen)
        if chosen.weight_bits < self.stored_bits:
            yield (
                f"The checkpoint holds {self.stored_bits}-bit weights; they are read at"
                f" {chosen.weight_bits} bits."
            )
        yield from self._smaller_model(chosen)
        if self.device.lacks:
            yield f"Of {self.device.name}: {self.device.lacks}."

    def _given_up(self, chosen: Candidate) -> Iterable[str]:
        """What a larger card would have, in words."""
        if chosen.weight_bits < 16:
            yield f"{chosen.weight_bits} instead of 16 bits of weights"
        if chosen.kv_bits < 16:
            yield f"{chosen.kv_bits} instead of 16 bits of KV cache"
        if chosen.context_tokens < self.asked:
            yield f"{chosen.context_tokens:,} instead of {self.asked:,} tokens of context"

    def _lying_on_host(self, chosen: Candidate) -> Iterable[str]:
        parts = []
        if self.shape.per_layer_width:
            parts.append("per-layer embeddings, of which a token takes a row")
        if self.shape.vision:
            parts.append("the image tower, until a picture comes")
        if chosen.on_host and parts:
            yield f"{gib(chosen.bytes.host)} lie in main memory: {'; '.join(parts)}."

    def _smaller_model(self, chosen: Candidate) -> Iterable[str]:
        """What a smaller Gemma 4 would do instead, where this one lost what people notice."""
        worse = chosen.weight_bits < SOUND_WEIGHT_BITS
        if not worse and chosen.context_tokens == self.asked:
            return
        longer = 0 if worse else chosen.context_tokens
        for advice in suggest_models(self._plan_by_default, self.shape.parameters, longer)[:1]:
            yield f"Or {advice}."

    def _next_better(self, chosen: Candidate) -> Iterable[str]:
        """How much memory is missing for the next higher KV bits and the next better weights."""
        parts = []
        position = [weights.name for weights in self.ladder].index(chosen.weights)
        above = self.kv_ladder[: self.kv_ladder.index(chosen.kv_bits)]
        if above:
            parts.append((f"{above[-1]}-bit KV", self.ladder[position], above[-1]))
        if position:
            weights = self.ladder[position - 1]
            parts.append((f"{weights.name} weights", weights, self.kv_ladder[-1]))
        missing_for = []
        for name, weights, kv_bits in parts:
            missing = self._least_total(weights, kv_bits, self.asked) - self.device.free_bytes
            if missing > 0:
                missing_for.append(f"{name} would need {gib(missing)} more")
        if missing_for:
            yield f"For that context {' and '.join(missing_for)}."

    def _least_total(self, weights: Weights, kv_bits: int, tokens: int) -> int:
        return min(
            self.budget.of(weights, kv_bits, economy, tokens).total
            for economy in self._economies(weights)
            if self._fits_host(weights, economy)
        )

    def _plan_by_default(self, shape: ModelShape) -> Candidate | None:
        return plan_by_default(shape, self.device)

    def _does_not_fit(self) -> DoesNotFitError:
        smallest, kv_bits, device = self.ladder[-1], self.kv_ladder[-1], self.device
        need = self._least_total(smallest, kv_bits, self.least)
        missing, used = need - device.free_bytes, device.total_bytes - device.free_bytes
        ways = []
        if self.settings != Settings():
            forced = ("--weights", self.settings.weights), ("--kv-bits", self.settings.kv_bits)
            given = [name for name, value in forced if value]
            ways += [f"leave out {' and '.join(given)}"] if given else []
        # Closing other programs helps only where they hold more than is missing
        if used > missing:
            taken = f"{', '.join(device.users) or 'programs'} on {device.name}"
            ways.append(f"close {taken} ({gib(used)} are taken)")
        ways += suggest_models(self._plan_by_default, self.shape.parameters)
        ways.append("take --model pocket, which runs anywhere")
        return DoesNotFitError(
            f"{gib(missing)} are missing: {smallest.name} weights, {_cache_of(kv_bits)}"
            f" and {self.least:,} tokens of context need {gib(need)}, and"
            f" {device.name} has {gib(device.free_bytes)} free of {gib(device.total_bytes)};"
            f" {', or '.join(ways)}"
        )


def _cache_of(bits: int) -> str:
    return f"{'an' if bits == 8 else 'a'} {bits}-bit KV cache"
