"""Pictures for Gemma 4 12B, which has no image tower: patches of 48 x 48 pixels, whole.

transformers' own processor for it needs torchvision; the other sizes' patches of 16 x 16 pixels,
which pillow and numpy make, hold the same pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

__all__ = ["MergedPatches"]


class MergedPatches:
    """Called as transformers' image processors are.

    Attributes:
        max_soft_tokens: the budget of a picture where none is given.
    """

    def __init__(self, inner: Any, side: int) -> None:
        """Takes the patches of `inner` and merges `side` x `side` of them."""
        self._inner, self._side = inner, side
        self.max_soft_tokens: int = inner.max_soft_tokens

    def __call__(self, **arguments: Any) -> dict[str, torch.Tensor]:
        """The patches of some pictures; takes the arguments of `Gemma4ImageProcessorPil`.

        Returns:
            `pixel_values` [pictures, tokens, 6912] in (row, column, colour) order and
            `image_position_ids` [pictures, tokens, 2] as (x, y), -1 where padded.
        """
        patches = self._inner(**arguments)
        merged = [
            self._merge(*one)
            for one in zip(patches["pixel_values"], patches["image_position_ids"], strict=True)
        ]
        pixels, places = zip(*merged, strict=True)
        return {
            "pixel_values": pad_sequence(list(pixels), batch_first=True),
            "image_position_ids": pad_sequence(list(places), batch_first=True, padding_value=-1),
        }

    def _merge(
        self, patches: torch.Tensor, places: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One picture's patches [n, 768] at (x, y) [n, 2], row by row, to those of one token."""
        side = self._side
        width, height = (int(edge) + 1 for edge in places.amax(0))
        pixels = int((patches.shape[1] // 3) ** 0.5)
        rows, columns = height // side, width // side
        # Behind the picture's own patches stands padding.
        grid = patches[: width * height].view(rows, side, columns, side, pixels, pixels, 3)
        merged = grid.permute(0, 2, 1, 4, 3, 5, 6).reshape(rows * columns, -1)
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        return merged, torch.stack((x, y), dim=-1).view(-1, 2)
