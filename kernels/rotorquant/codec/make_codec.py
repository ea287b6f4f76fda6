"""Which codec stores which stream of a global layer: the latent V, or K and V."""

from __future__ import annotations

import torch

from rotorquant.codec.codebook import LEGACY_CENTROIDS
from rotorquant.codec.codec import Codec, Frame, PackedCodec, RawCodec
from rotorquant.codec.ggml_blocks import BLOCK, BlockCodec
from rotorquant.codec.residual import ResidualCodec
from rotorquant.codec.rotation import make_rotation
from rotorquant.config import BLOCK_BITS, RotorQuantConfig
from rotorquant.exceptions import ConfigError

__all__ = ["make_codec"]


def make_codec(
    config: RotorQuantConfig,
    stream: int,
    pairs: int | None,
    head_dim: int,
    device: torch.device,
    frame: Frame | None = None,
    heads: int | None = None,
) -> Codec:
    """The codec of the packed tokens of one stream.

    Args:
        config: options of the cache.
        stream: 0 for K and 1 for V; 0 for V where it is stored alone.
        pairs: rotary pairs of a layer that stores V alone; None where K and V are stored.
        head_dim: D.
        device: where vectors lie.
        frame: of the stream, or None.
        heads: of a stream whose codec can take another frame later, or None.

    Raises:
        ConfigError: the mode knows no rotation of D dimensions.
    """
    bits = config.stream_bits(tied=pairs is not None)[stream]
    if bits == 16:
        return RawCodec(head_dim, device)
    if config.mode in BLOCK_BITS:
        if head_dim % BLOCK:
            raise ConfigError(f"mode {config.mode!r} cannot cut heads of {head_dim} into {BLOCK}s")
        return BlockCodec(bits, head_dim, device)
    residual = config.key_code == "qjl" and stream == 0
    if frame is not None:
        frame = Frame(*(field.to(device, non_blocking=True) for field in frame))
    rotation = make_rotation(config.mode, head_dim, config.seed, device, pairs or 0)
    packed = PackedCodec(
        bits - residual,
        rotation,
        head_dim,
        device,
        frame=frame,
        heads=heads,
        matched=config.scale == "matched",
        centroids=LEGACY_CENTROIDS if config.table == "legacy" else None,
    )
    # A seed of its own, or S would be drawn from the very numbers of the rotation.
    return ResidualCodec(packed, head_dim, config.seed + 1, device) if residual else packed
