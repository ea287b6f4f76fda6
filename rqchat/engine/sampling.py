"""Drawing the next token: greedy, or temperature, top-k, top-p and min-p with a seed."""

from __future__ import annotations

import secrets

import torch
from torch import Tensor

from rqchat.engine.constraint import Constraint
from rqchat.engine.settings import SamplingSettings

__all__ = ["Sampler"]


class Sampler:
    """Draws tokens from logits; two samplers of one seed draw the same from the same logits.

    The draw runs on the CPU, so that a seed means the same on every device.
    """

    def __init__(self, settings: SamplingSettings, constraint: Constraint | None = None) -> None:
        """Draws by `settings`, and only what `constraint` lets through."""
        self._settings, self._constraint = settings, constraint
        self._temperature = 1.0 if settings.temperature is None else settings.temperature
        self.seed = secrets.randbits(31) if settings.seed is None else settings.seed
        self._generator = torch.Generator().manual_seed(self.seed)

    @property
    def is_over(self) -> bool:
        """Whether the constraint leaves nothing to draw but the end."""
        return self._constraint is not None and self._constraint.is_over

    def draw(self, logits: Tensor) -> int:
        """The next token for `logits` [vocabulary], any float dtype."""
        if self._constraint is None:
            return self._draw(logits)
        token = self._draw(self._constraint.mask(logits))
        self._constraint.accept(token)
        return token

    def _draw(self, logits: Tensor) -> int:
        if self._temperature == 0:
            return int(logits.argmax())
        values, tokens = self._candidates(logits.float())
        # Relative to the best first, so that a tiny temperature cannot overflow
        probabilities = torch.softmax((values - values[0]) / self._temperature, dim=-1)
        probabilities = self._cut(probabilities)
        choice = torch.multinomial(probabilities.cpu(), 1, generator=self._generator)
        return int(tokens[int(choice)])

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
