"""Writes the folder that ships: `python -m rqchat.pocket.training.export_model CHECKPOINT`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, cast

import torch
from transformers import GenerationConfig
from transformers.models.gemma4.modeling_gemma4 import Gemma4ForConditionalGeneration

from rqchat.pocket.training.architecture import SPECIAL_TOKENS, build_model, model_folder

__all__ = ["export_model", "load_checkpoint"]

_IMAGE_TOKENS = 70  # as in preprocessor_config.json, which vLLM does not read


def load_checkpoint(path: Path) -> Gemma4ForConditionalGeneration:
    """The float32 model of a training checkpoint, with the averaged weights."""
    model: Any = build_model(0)
    state = torch.load(path, map_location="cpu", weights_only=True)
    # Where there is an average, it takes the place of the trained weight.
    model.load_state_dict(state["model"] | state["average"])
    model.eval()
    return cast(Gemma4ForConditionalGeneration, model)


def export_model(model: Any, folder: Path) -> None:
    """Save bf16 safetensors and the configs of a Gemma4ForConditionalGeneration into `folder`."""
    model = model.to(torch.bfloat16)
    # A training attention or an installed one must not be written into the config.
    model.set_attn_implementation("sdpa")
    model.config.vision_config.default_output_length = _IMAGE_TOKENS
    token_id = {token: index for index, token in enumerate(SPECIAL_TOKENS)}
    model.generation_config = GenerationConfig(
        bos_token_id=token_id["<bos>"],
        eos_token_id=[token_id["<eos>"], token_id["<turn|>"], token_id["<|tool_response>"]],
        pad_token_id=token_id["<pad>"],
        # Greedy by default: there is one right answer to everything that it can be asked
        do_sample=False,
    )
    model.save_pretrained(folder)


def main() -> None:
    """Read the arguments and export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, default=model_folder())
    arguments = parser.parse_args()
    export_model(load_checkpoint(arguments.checkpoint), arguments.out)


if __name__ == "__main__":
    main()
