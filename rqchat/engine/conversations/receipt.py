"""What an answer was made with, so that it can be made again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Self, TypeVar

from rqchat import __version__
from rqchat.engine.conversations.value_types import fits
from rqchat.engine.events import Done, MemoryUse, StopReason, Timing, TokenCounts
from rqchat.engine.foreign import border
from rqchat.engine.remote.address import is_address
from rqchat.engine.settings import HEAD_BITS, WEIGHTS, SamplingSettings, Settings
from rqchat.errors import DamagedStoreError, InputError

if TYPE_CHECKING:
    from rqchat.engine.session_api import Session

__all__ = ["Receipt"]

_Record = TypeVar("_Record")
_LOST = "?"


@dataclass(frozen=True, slots=True)
class Receipt:
    """Everything that decides an answer, and what it took.

    Attributes:
        rqchat, torch: versions.
        model, revision: which weights.
        device: the GPU's name or the CPU's.
        weights, head_bits, kv_bits, sliding_bits, kv_mode: how weights and cache were stored; empty
            and 0 where a server had the model, as `device` is.
        context_tokens, image_tokens: as planned.
        system, thinking: how the model was addressed.
        sampling: with the temperature and the seed that were used.
        calibration: digest of what the cache knew of the model; empty for nothing, None in receipts
            that were written before it was kept.
        begun: the beginning that the answer was given; empty unless an earlier one was continued.
        schema: the JSON schema that it had to match.
        page_tokens: as planned; 0 also in receipts that were written before it was kept.
        tokens, timing, memory, stop_reason: None while the answer is unfinished.
    """

    rqchat: str
    torch: str
    model: str
    revision: str
    device: str
    weights: str
    head_bits: int
    kv_bits: int
    sliding_bits: int
    kv_mode: str
    context_tokens: int
    image_tokens: int
    system: str | None
    thinking: bool
    sampling: SamplingSettings
    calibration: str | None = None
    begun: str = ""
    schema: str | None = None
    page_tokens: int = 0
    tokens: TokenCounts | None = None
    timing: Timing | None = None
    memory: MemoryUse | None = None
    stop_reason: StopReason | None = None

    @classmethod
    def begin(cls, session: Session, sampling: SamplingSettings) -> Self:
        """The receipt of an answer that has yet to come."""
        plan, facts = session.plan, session.facts
        if sampling.temperature is None:
            sampling = replace(sampling, temperature=facts.temperature)
        return cls(
            rqchat=__version__,
            torch=facts.torch,
            model=session.model_name,
            revision=facts.revision,
            device=plan.device.name if plan else "",
            weights=plan.chosen.weights if plan else "",
            head_bits=plan.chosen.head_bits if plan else 0,
            kv_bits=plan.chosen.kv_bits if plan else 0,
            sliding_bits=plan.chosen.sliding_bits if plan else 0,
            kv_mode=facts.kv_mode,
            context_tokens=session.context_tokens,
            image_tokens=plan.image_tokens if plan else 0,
            system=session.system,
            thinking=session.thinking,
            sampling=sampling,
            calibration=facts.calibration,
            page_tokens=plan.page_tokens if plan else 0,
        )

    def end(self, done: Done) -> Self:
        """The same with what the answer took, and the seed that was drawn for it."""
        return replace(
            self,
            sampling=replace(self.sampling, seed=done.seed),
            tokens=done.tokens,
            timing=done.timing,
            memory=done.memory,
            stop_reason=done.stop_reason,
        )

    @property
    def settings(self) -> Settings:
        """Settings that plan the same again.

        Raises:
            InputError: the receipt is lost.
        """
        if self.model == _LOST:
            raise InputError("what the answer was made with is lost: its receipt was damaged")
        if is_address(self.model):  # the server has planned the rest
            return Settings(model=self.model)
        return Settings(
            model=self.model,
            # fp32 cannot be asked for: it is what the plan takes on a CPU by itself.
            weights=self.weights if self.weights in WEIGHTS else None,
            head_bits=self.head_bits if self.head_bits in HEAD_BITS else None,
            kv_bits=self.kv_bits,
            context_tokens=self.context_tokens,
            image_tokens=None if self.page_tokens else self.image_tokens,
        )

    def to_json(self) -> str:
        """One JSON object; its keys are the fields."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` wrote. Fields that a later version added are passed over.

        Raises:
            DamagedStoreError: nothing that `to_json` wrote looks so.
        """
        with border(lambda cause: DamagedStoreError(f"a receipt is damaged: {cause}")):
            given: dict[str, Any] = json.loads(text)
            parts = {
                "sampling": SamplingSettings,
                "tokens": TokenCounts,
                "timing": Timing,
                "memory": MemoryUse,
            }
            for name, kind in parts.items():
                if given.get(name) is not None:
                    given[name] = _build(kind, given[name])
            return _build(cls, given)

    @classmethod
    def lost(cls) -> Self:
        """In the place of one that cannot be read any more."""
        names = ("rqchat", "torch", "model", "revision", "device", "weights", "kv_mode")
        numbers = ("head_bits", "kv_bits", "sliding_bits", "context_tokens", "image_tokens")
        filled: dict[str, Any] = {**dict.fromkeys(names, _LOST), **dict.fromkeys(numbers, 0)}
        return cls(
            **filled,
            system=None,
            thinking=False,
            sampling=SamplingSettings(temperature=0.0),
        )


def _build(kind: type[_Record], given: Mapping[str, Any]) -> _Record:
    known = {field.name: str(field.type) for field in fields(kind)}  # type: ignore[arg-type]
    values = {name: value for name, value in given.items() if name in known}
    for name, value in values.items():
        if not fits(known[name], value):
            raise TypeError(f"{name} is {value!r}")
    return kind(**values)
