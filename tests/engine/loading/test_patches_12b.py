"""Gemma 4 12B in small: another class of transformers', and pictures without a tower."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import Gemma4ImageProcessorPil

from rqchat.engine.conversation import UserTurn
from rqchat.engine.events import Done
from rqchat.engine.inputs.pictures import Picture
from rqchat.engine.loading.patches_12b import MergedPatches
from rqchat.engine.session import ChatSession
from rqchat.engine.settings import SamplingSettings, Settings
from tests.engine.weights.checkpoints import EVEN_CONFIG
from tests.engine.weights.loading import load, logits_of, plan_for
from tests.helpers import build_tiny_model

unified = pytest.importorskip(
    "transformers.models.gemma4_unified", reason="this transformers does not know Gemma 4 12B"
)


@pytest.fixture(scope="module")
def unified_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config: dict[str, Any] = copy.deepcopy(EVEN_CONFIG) | {"model_type": "gemma4_unified"}
    config["text_config"]["model_type"] = "gemma4_unified_text"
    config["vision_config"] = {
        "model_type": "gemma4_unified_vision",
        "mm_embed_dim": 64,
        "mm_posemb_size": 64,
        "output_proj_dims": 64,
        "patch_size": 16,
        "pooling_kernel_size": 3,
    }
    return build_tiny_model(tmp_path_factory.mktemp("unified"), config=config)


def picture(width: int, height: int) -> Image.Image:
    noise = torch.randint(256, (height, width, 3), generator=torch.Generator().manual_seed(width))
    return Image.fromarray(noise.to(torch.uint8).numpy())


def test_its_weights_are_loaded(unified_folder: Path) -> None:
    loaded = load(unified_folder)

    reference = unified.Gemma4UnifiedForConditionalGeneration.from_pretrained(unified_folder).eval()
    assert torch.equal(logits_of(loaded.model), logits_of(reference))
    assert loaded.weight_bytes == plan_for(unified_folder, None).chosen.bytes.weights
    assert load(unified_folder, "int4").weight_bytes == (
        plan_for(unified_folder, "int4").chosen.bytes.weights
    )


def test_patches_are_merged_as_they_lie_in_the_picture(unified_folder: Path) -> None:
    inner = Gemma4ImageProcessorPil.from_pretrained(unified_folder)
    asked: dict[str, Any] = {"images": [picture(300, 150), picture(90, 200)]}
    asked |= {"max_soft_tokens": 70, "return_tensors": "pt"}
    small, found = inner(**asked), MergedPatches(inner, 3)(**asked)

    for patches, places, merged, merged_places in zip(
        small["pixel_values"],
        small["image_position_ids"],
        found["pixel_values"],
        found["image_position_ids"],
        strict=True,
    ):
        width, height = (places.amax(0) + 1).tolist()
        image = torch.zeros(height * 16, width * 16, 3)
        for patch, (x, y) in zip(patches, places.tolist(), strict=True):
            if x >= 0:
                image[16 * y : 16 * y + 16, 16 * x : 16 * x + 16] = patch.view(16, 16, 3)
        count = width * height // 9
        assert (merged_places[count:] == -1).all()
        for patch, (x, y) in zip(merged[:count], merged_places[:count].tolist(), strict=True):
            expected = image[48 * y : 48 * y + 48, 48 * x : 48 * x + 48]
            assert torch.equal(patch.view(48, 48, 3), expected)


def test_it_answers_about_pictures(unified_folder: Path) -> None:
    session = ChatSession.open(Settings(model=str(unified_folder), device="cpu", image_tokens=70))
    shown = Picture("noise", 300, 150, picture(300, 150))

    events = list(
        session.ask(UserTurn("look", pictures=(shown,)), SamplingSettings(max_tokens=3, seed=1))
    )

    assert isinstance(events[-1], Done)
    assert events[-1].tokens.image > 50
