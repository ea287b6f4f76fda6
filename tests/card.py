"""A model and its cache on a GPU that is not there, under `meta_device.pretend_gpu`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from rotorquant import RotorQuantCache, fuse_layers
from rqchat.engine.planning.known_models import known_models
from rqchat.engine.weights.modules import GRIDS
from rqchat.engine.weights.skeleton import build_skeleton
from tests.device_rules import DeviceRules
from tests.engine.planning.meta_device import pack_linears

__all__ = ["GLOBAL", "SLIDING", "Card"]

SLIDING, GLOBAL = "sliding_attention", "full_attention"
MAX_TOKENS = 4096


class Card:
    """A model and its cache on the card, used under the rules of one."""

    def __init__(self, kinds: Sequence[str] = (SLIDING, GLOBAL), model_index: int = 0) -> None:
        config = dict(known_models()[model_index].config)
        text = config["text_config"] | {"num_hidden_layers": len(kinds), "layer_types": [*kinds]}
        if text.get("num_kv_shared_layers"):
            text["num_kv_shared_layers"] = len(kinds) // 2
        model = build_skeleton(config | {"text_config": text}, torch.bfloat16, torch.device("cpu"))
        pack_linears(model, GRIDS["int4"])
        fuse_layers(model)
        self.model, self.rules = model, DeviceRules()
        # A new cache looks into the rotary's frequencies, whose content the meta device has not
        self._buffers = {
            (module, name): buffer
            for module in model.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None and not buffer.is_meta
        }
        self.cache = self.made(lambda: RotorQuantCache(model, bits=4, max_tokens=MAX_TOKENS))

    def made(self, make: Callable[[], RotorQuantCache]) -> RotorQuantCache:
        """A cache for which its first tokens have been read, as tables are made with those."""
        for (module, name), buffer in self._buffers.items():
            module._buffers[name] = buffer
        cache = make()
        for (module, name), buffer in self._buffers.items():
            module._buffers[name] = buffer.to("meta")
        cache._finite_check.deferred_on = ("cuda", "meta")
        self.cache = cache
        self.read(8)
        return cache

    def read(self, tokens: int, batch: int = 1, **inputs: Any) -> None:
        ids = torch.zeros(batch, tokens, dtype=torch.long, device="meta")
        with torch.no_grad():
            self.model(
                input_ids=ids,
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
                **inputs,
            )
