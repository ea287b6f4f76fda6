"""A model without weights: parameters on the meta device, computed buffers on the real one."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers.initialization import no_init_weights

from rqchat.errors import ModelError

__all__ = ["build_skeleton"]

_CLASSES = {
    "gemma4": "Gemma4ForConditionalGeneration",
    "gemma4_unified": "Gemma4UnifiedForConditionalGeneration",
}


def build_skeleton(config: Mapping[str, Any], dtype: torch.dtype, device: torch.device) -> Any:
    """transformers' model for `config`, in eval mode, its parameters on the meta device.

    It has no audio tower.

    Buffers that no checkpoint holds, such as the frequencies of the rotary embeddings, are
    computed and lie on `device`.

    Raises:
        ModelError: this transformers does not know the family.
    """
    family = _CLASSES[str(config["model_type"])]
    kind: Any = getattr(transformers, family, None)
    if kind is None:
        raise ModelError(
            f"transformers {transformers.__version__} does not know {family}; upgrade it:"
            " pip install -U transformers"
        )
    plain = {key: value for key, value in config.items() if key != "quantization_config"}
    plain["audio_config"] = None  # rqchat takes no sound, and the tower has 0.6 GB
    settings = kind.config_class.from_dict(copy.deepcopy(plain))
    settings.dtype = dtype
    with _default_dtype(dtype), _parameters_on_meta(), no_init_weights():
        model = kind(settings)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
    return model.eval().requires_grad_(False)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Buffers made without a dtype get the model's, as `from_pretrained` makes them."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Each parameter moves to the meta device as a module takes it, before it is initialized."""

    def move(module: nn.Module, name: str, parameter: nn.Parameter) -> Any:
        return nn.Parameter(parameter.to("meta"), False)

    hook = register_module_parameter_registration_hook(move)
    try:
        yield
    finally:
        hook.remove()
