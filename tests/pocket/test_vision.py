"""The tower's input, labels, attention and files, against transformers and against the scene."""

from __future__ import annotations

import math
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

from rqchat.pocket.training.vision.cells import (
    COLOUR_NAMES,
    IGNORE,
    grid_for,
    make_batch,
    sample_batch,
)
from rqchat.pocket.training.vision.painting import render
from rqchat.pocket.training.vision.scenes import KINDS, Scene, Shape
from rqchat.pocket.training.vision.tower import (
    Heads,
    encode,
    new_tower,
    read_shapes,
    use_tiled_attention,
)
from rqchat.pocket.training.vision.train_tower import load_features, write_features

TWO = Scene(
    shapes=(
        Shape("circle", "red", (220, 20, 20), 0.23, 0.45, 0.3),
        Shape("star", "blue", (30, 60, 220), 0.77, 0.45, 0.3),
    ),
    background=(255, 255, 255),
    background_name="white",
    width=640,
    height=420,
)


@pytest.mark.parametrize("size", [(640, 420), (384, 384), (150, 375), (900, 361), (97, 101)])
def test_pixels_are_those_of_the_image_processor(size: tuple[int, int]) -> None:
    scene = Scene(TWO.shapes, TWO.background, "white", *size, noise=3.0, noise_seed=5)
    grid = grid_for(*size, 70)
    batch = make_batch([scene], grid)
    inputs = Gemma4ImageProcessorPil(max_soft_tokens=70)(images=render(scene), return_tensors="pt")
    patches = 9 * grid[0] * grid[1]
    assert int(inputs["num_soft_tokens_per_image"][0]) == grid[0] * grid[1]
    # The processor multiplies by 1/255 in its own precision: equal within one float32 rounding.
    torch.testing.assert_close(
        batch.pixels[0].float() / 255,
        inputs["pixel_values"][0, :patches].float(),
        atol=1e-6,
        rtol=0,
    )
    assert torch.equal(batch.positions[0], inputs["image_position_ids"][0, :patches])


@torch.no_grad()
def test_unpadded_batch_gives_the_features_of_a_padded_one() -> None:
    torch.manual_seed(0)
    tower = new_tower().eval()
    batch = make_batch([TWO], grid_for(640, 420, 70))
    inputs = Gemma4ImageProcessorPil(max_soft_tokens=70)(images=render(TWO), return_tensors="pt")
    padded = tower(inputs["pixel_values"].float(), inputs["image_position_ids"]).last_hidden_state
    # Sums of some hundred float32 terms in another order.
    torch.testing.assert_close(encode(tower, batch), padded, atol=1e-4, rtol=1e-4)


def test_labels_name_the_shapes_where_they_are() -> None:
    grid = grid_for(640, 420, 70)
    labels = make_batch([TWO], grid).labels
    centres = [int((labels["centre"] * (labels["rank"] == rank)).argmax()) for rank in (0, 1)]
    told = [
        (KINDS[labels["kind"][i]], COLOUR_NAMES[labels["colour"][i]], int(labels["rank"][i]))
        for i in centres
    ]
    assert told == [("circle", "red", 0), ("star", "blue", 1)]
    for index, shape in zip(centres, TWO.shapes, strict=True):
        assert index % grid[0] == math.floor(shape.x * grid[0])
        assert index // grid[0] == math.floor(shape.y * grid[1])
        assert COLOUR_NAMES[labels["cover_colour"][index]] == shape.colour
    assert int(labels["cover_kind"][0]) == len(KINDS)
    # The shares of a shape's four cells sum to 1; those under 0.05 are left out.
    assert 1.7 < float(labels["centre"].sum()) <= 2.0 + 1e-6
    assert {COLOUR_NAMES[i] for i in labels["background"].tolist()} == {"white"}
    assert labels["count"].unique().tolist() == [1]


def test_heads_that_say_the_labels_are_read_as_the_scene() -> None:
    batch = sample_batch(Random(3), 70, 6)
    cells = batch.grid[0] * batch.grid[1]
    for index, scene in enumerate(batch.scenes):
        own = {k: v[index * cells : (index + 1) * cells] for k, v in batch.labels.items()}
        facts = {
            "centre": own["centre"][:, None].logit(eps=1e-6),
            "offset": own["offset"],
            **{
                key: torch.nn.functional.one_hot(own[key].clamp(min=0), size).float()
                for key, size in (("kind", len(KINDS)), ("colour", len(COLOUR_NAMES)))
            },
        }
        read = sorted((r.kind, r.colour) for r in read_shapes(facts, batch.grid))
        assert read == sorted((s.kind, s.colour) for s in scene.shapes)


def test_tiled_attention_learns_as_the_standard_one() -> None:
    torch.manual_seed(0)
    plain, tiled = new_tower(), new_tower()
    tiled.load_state_dict(plain.state_dict())
    use_tiled_attention(tiled)
    batch = sample_batch(Random(1), 16, 2)
    target = torch.randn(2 * batch.grid[0] * batch.grid[1], 128)
    for tower in (plain, tiled):
        with torch.autocast("cpu", torch.bfloat16):
            torch.nn.functional.mse_loss(encode(tower, batch).float(), target).backward()
    for (name, expected), (_, got) in zip(
        plain.named_parameters(), tiled.named_parameters(), strict=True
    ):
        assert expected.grad is not None
        assert got.grad is not None
        # bf16 keeps 8 bits, so two orders of the same sums agree to a few per cent of the norm.
        error = (expected.grad - got.grad).norm() / expected.grad.norm().clamp(min=1e-12)
        assert error < 0.05, name


def test_ignored_cells_lie_on_edges_only() -> None:
    batch = sample_batch(Random(2), 70, 8)
    unsure = (batch.labels["cover_kind"] == IGNORE).float().mean()
    assert 0 < unsure < 0.2


def test_features_survive_the_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tower = new_tower().eval()
    write_features(tower, tmp_path / "features.pt", count=5, seed="test")
    loaded = load_features(tmp_path / "features.pt")
    assert len(loaded) == 5
    for scene, grid, features in loaded:
        assert grid == grid_for(scene.width, scene.height, 70)
        assert features.shape == (grid[0] * grid[1], 128)
        with torch.no_grad():
            again = encode(tower, make_batch([scene], grid))
        # Written from bf16 arithmetic in batches, read against float32 alone.
        assert np.allclose(features.float(), again, atol=0.1 * float(again.std()))


def test_heads_split_covers_every_fact() -> None:
    facts = Heads(128)(torch.randn(7, 128))
    assert {key: value.shape for key, value in facts.items()} == {
        key: (7, size) for key, size in Heads.SIZES.items()
    }
