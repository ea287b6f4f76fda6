"""Drawing the next token: greedy, or temperature, top-k, top-p and min-p with a seed."""

from __future__ import annotations

import random
import secrets
from collections import deque

import torch
from torch import Tensor

from rotorquant.one_device import send
from rqchat.engine.generation.json_constraint import Constraint
from rqchat.engine.settings import SamplingSettings

__all__ = ["Sampler"]

_PENALIZED_TOKENS = 256


class Sampler:
    """Draws tokens from logits; two samplers of one seed draw the same from the same logits.

    Chance comes from Python: a seed means the same on every device, and nothing waits for one.
    """

    def __init__(
        self,
        settings: SamplingSettings,
        constraint: Constraint | None = None,
        suppressed: Tensor | None = None,
    ) -> None:
        """Draws by `settings`, only what `constraint` lets through, and nothing `suppressed`, int64
        [tokens] on the device of the logits."""
        self._suppressed = suppressed
        self._latest: deque[int] = deque(maxlen=_PENALIZED_TOKENS)
        self._settings, self._constraint = settings, constraint
        self._temperature = 1.0 if settings.temperature is None else settings.temperature
        self.seed = secrets.randbits(31) if settings.seed is None else settings.seed
        self._random = random.Random(self.seed)
        self._chance: float | None = None  # in [0, 1), of the token that is not accepted yet

    @property
    def is_over(self) -> bool:
        """Whether the constraint leaves nothing to draw but the end."""
        return self._constraint is not None and self._constraint.is_over

    def draw(self, logits: Tensor) -> Tensor:
        """The next token [] for `logits` [vocabulary], any float dtype, on their device.

        Until `accept` another draw is the same one again.
        """
        if self._settings.repetition_penalty != 1 and self._latest:
            logits = self._penalized(logits)
        if self._suppressed is not None:
            logits = logits.index_fill(0, self._suppressed, float("-inf"))
        if self._constraint is not None:
            logits = self._constraint.mask(logits)
        if self._temperature == 0:
            return logits.argmax()
        if self._chance is None:
            self._chance = self._random.random()
        return self._drawn(logits.cpu() if logits.device.type == "mps" else logits, self._chance)

    def accept(self, token: int) -> None:
        """`token` was drawn and is part of the answer."""
        self._chance = None
        self._latest.append(token)
        if self._constraint is not None:
            self._constraint.accept(token)

    def _penalized(self, logits: Tensor) -> Tensor:
        """Logits of the latest tokens divided by the penalty, negative ones multiplied (Keskar et
        al., 2019)."""
        tokens = send(torch.tensor(sorted(set(self._latest))), logits.device)
        values, penalty = logits[tokens], self._settings.repetition_penalty
        lower = torch.where(values > 0, values / penalty, values * penalty)
        return logits.index_copy(0, tokens, lower)

    def _drawn(self, logits: Tensor, chance: float) -> Tensor:
        """The first token at which the probabilities add up to more than `chance` of all."""
        values, tokens = self._candidates(logits.float())
        # Relative to the best first, so that a tiny temperature cannot overflow
        probabilities = torch.softmax((values - values[0]) / self._temperature, dim=-1)
        # Metal has no float64, in which not even the rarest token of a vocabulary is lost
        sums = self._cut(probabilities).double().cumsum(-1)
        place = (sums <= sums[-1] * chance).sum(dim=0, keepdim=True)
        return tokens.gather(0, place)[0]

    def _candidates(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Logits from the highest down, top-k of them, and the tokens they belong to."""
        count = logits.shape[-1]
        kept = min(self._settings.top_k, count) if self._settings.top_k else count
        values, tokens = torch.topk(logits, kept)
        return values, tokens

    def _cut(self, probabilities: Tensor) -> Tensor:
        """Zero what min-p and top-p drop; the likeliest token always stays.

        Top-p keeps the shortest run from the top whose mass reaches `top_p` (Holtzman et al.,
        2020); min-p what has at least `min_p` of the best one's probability (Nguyen et al., 2024).
        """
        before = probabilities.cumsum(-1) - probabilities
        kept = before < self._settings.top_p
        kept &= probabilities >= self._settings.min_p * probabilities[0]
        kept[0] = True
        return probabilities * kept
