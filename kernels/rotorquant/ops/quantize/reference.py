"""Specification of the quantize op.

With y a rotated vector of D values, c the centroids for N(0, 1) and sigma = |y| / sqrt(D):

    code_d = index of the centroid nearest to y_d / sigma
    scale  = |y| / |c[code]|          (matched norm: the decoded vector is as long as y)

or, where the norm is not matched, scale = sigma. A zero vector gets scale 0.
"""

from __future__ import annotations

from typing import TypeVar

import torch

from rotorquant.ops.planes import planes_of

__all__ = ["Packed", "PackedOut", "finish", "pack_codes", "put", "quantize", "standardized"]

Packed = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]
"""Primary plane, extra plane or None, scale."""

PackedOut = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]
"""Tensors that a `Packed` is written to, of which some may be missing; `attend.Rows` is one."""

_Fields = TypeVar("_Fields", bound=PackedOut)


def quantize(y: torch.Tensor, centroids: torch.Tensor, matched: bool = True) -> Packed:
    """Planes and scales of vectors [..., D], by the formula above."""
    unit, norm = standardized(y.float())
    boundaries = (centroids[1:] + centroids[:-1]) / 2
    codes = torch.bucketize(unit, boundaries, out_int32=True)
    return finish(codes, norm, centroids, matched)


def standardized(y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors [..., D] float32 of unit variance, and their norms [..., 1] before."""
    norm = torch.linalg.vector_norm(y, dim=-1, keepdim=True)
    sigma = norm / y.shape[-1] ** 0.5
    # A vector of zeros stays one; its scale is 0 as well.
    return y / sigma.clamp_min(torch.finfo(torch.float32).tiny), norm


def finish(
    codes: torch.Tensor, norm: torch.Tensor, centroids: torch.Tensor, matched: bool
) -> Packed:
    """Planes and scale of codes [..., D] int32 of vectors with norms [..., 1]."""
    length = norm.squeeze(-1)
    if matched:
        scale = length / torch.linalg.vector_norm(centroids[codes], dim=-1)
    else:
        scale = length / codes.shape[-1] ** 0.5
    bits = centroids.shape[0].bit_length() - 1
    return (*pack_codes(codes.to(torch.uint8), bits), scale.to(torch.float16))


def put(packed: _Fields, into: PackedOut | None) -> _Fields:
    """The same, after a copy to the tensors `into` if there are any."""
    for target, field in zip(into or (), packed, strict=into is not None):
        if target is not None and field is not None:
            target.copy_(field)
    return packed


def pack_codes(codes: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Primary and extra plane of codes [..., D] uint8; the extra one is None without extra bits."""
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
