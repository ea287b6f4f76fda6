"""Specification of the quantize op.

With y a rotated vector of D values, c the centroids for N(0, 1) and sigma = |y| / sqrt(D):

    code_d = index of the centroid nearest to y_d / sigma
    scale  = |y| / |c[code]|          (matched norm: the decoded vector is as long as y)

A zero vector gets scale 0.
"""

from __future__ import annotations

import torch

from rotorquant.ops.planes import planes_of

__all__ = ["pack_codes", "quantize"]


def quantize(
    vectors: torch.Tensor, centroids: torch.Tensor, bits: int
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """See `rotorquant.ops.quantize.quantize`."""
    y = vectors.float()
    norm = torch.linalg.vector_norm(y, dim=-1, keepdim=True)
    sigma = norm / y.shape[-1] ** 0.5
    unit = y / sigma.clamp_min(torch.finfo(torch.float32).tiny)
    boundaries = (centroids[1:] + centroids[:-1]) / 2
    codes = torch.bucketize(unit, boundaries, out_int32=True)
    decoded_norm = torch.linalg.vector_norm(centroids[codes], dim=-1)
    scale = (norm.squeeze(-1) / decoded_norm).to(torch.float16)
    return (*pack_codes(codes.to(torch.uint8), bits), scale)


def pack_codes(codes: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """See `rotorquant.ops.quantize.pack_codes`."""
    planes = planes_of(bits)
    head_dim = codes.shape[-1]
    order = torch.tensor(planes.storage_order(head_dim), device=codes.device)
    fields = codes.index_select(-1, order).unflatten(-1, (-1, planes.fields))
    low = fields & (2**planes.primary - 1)
    primary = _join(low, planes.primary)
    if not planes.extra:
        return primary, None
    group = _join(fields >> planes.primary, planes.extra)
    # [..., groups, n] -> [..., n, groups]: extra byte j takes the groups of bytes j + h n.
    rows = group.unflatten(-1, (planes.groups, -1)).transpose(-1, -2)
    return primary, _join(rows, planes.group_bits)


def _join(parts: torch.Tensor, width: int) -> torch.Tensor:
    """[..., k] small integers -> [...] uint8 with part t at bit width * t."""
    joined = parts[..., 0].clone()
    for place in range(1, parts.shape[-1]):
        joined |= parts[..., place] << (width * place)
    return joined
