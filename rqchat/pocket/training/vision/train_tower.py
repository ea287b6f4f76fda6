"""Teaches the pocket model's vision tower to see, before any language.

    python -m rqchat.pocket.training.vision.train_tower --out FOLDER [--minutes 45] [--resume]
        [--seed 1] [--device cpu]

The tower is transformers' own `Gemma4VisionModel`. Every soft token (a cell of 48 x 48 pixels) is
read by one linear map, after the weightless RMSNorm that `Gemma4MultimodalEmbedder` applies too,
and must tell what the generator knows: which shape covers the cell; whether a shape's centre lies
in it, and what, where and how big that shape is; how many shapes there are; where in the frame the
cell lies; the background. Language then only has to read these facts out.

Training begins with small budgets of soft tokens, where a step is cheap, and ends at the real one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Gemma4VisionModel

from rqchat.errors import UsageError
from rqchat.pocket.training.vision.cells import IGNORE, SOFT_TOKENS, Batch, Grid, sample_batch
from rqchat.pocket.training.vision.scenes import Scene, Shape
from rqchat.pocket.training.vision.tower import (
    Heads,
    encode,
    evaluate,
    has_fast_bf16,
    new_tower,
    use_tiled_attention,
)

__all__ = [
    "encode_pictures",
    "load_features",
    "prepare_vision",
    "save_tower",
    "scene_from_dict",
    "write_features",
]

_WEIGHTS = {
    "cover_kind": 1.0,
    "cover_colour": 1.0,
    "centre": 6.0,
    "kind": 1.0,
    "colour": 1.0,
    "column": 0.5,
    "row": 0.5,
    "rank": 0.5,
    "count": 0.5,
    "background": 0.2,
    "offset": 4.0,
    "size": 4.0,
    "position": 4.0,
}


def _loss(facts: dict[str, Tensor], labels: dict[str, Tensor]) -> Tensor:
    """Weighted sum of cross entropies and squared errors; where no centre is, none is described."""
    total = facts["centre"].new_zeros(())
    at_centre = labels["kind"] != IGNORE
    for key, weight in _WEIGHTS.items():
        guess, truth = facts[key], labels[key]
        if key == "centre":
            loss = F.binary_cross_entropy_with_logits(guess.squeeze(-1), truth)
        elif key == "position":
            loss = F.mse_loss(guess, truth)
        elif key in ("offset", "size"):
            loss = F.mse_loss(guess[at_centre], truth[at_centre])
        elif (truth != IGNORE).any():
            loss = F.cross_entropy(guess, truth, ignore_index=IGNORE)
        else:
            continue
        total = total + weight * loss
    return total


def _budgets(progress: float, rng: Random) -> tuple[int, int]:
    """(budget, pictures) of a step at `progress` in 0..1: small grids first, then the real one."""
    if rng.random() < max(0.1, (progress - 0.25) / 0.4):
        return SOFT_TOKENS, 10
    budget = rng.choice((12, 16, 20, 25, 30, 36))
    # As many soft tokens in all as ten pictures of the real budget have.
    return budget, 10 * SOFT_TOKENS // budget


def _rate(progress: float, step: int, peak: float) -> float:
    """Warm-up over 100 steps, then a cosine down to 2 % of the peak."""
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return peak * min(1.0, (step + 1) / 100) * (0.02 + 0.98 * cosine)


def _save(path: Path, state: dict[str, object]) -> None:
    part = path.with_suffix(path.suffix + ".part")
    torch.save(state, part)
    os.replace(part, path)


def save_tower(tower: Gemma4VisionModel, path: Path) -> None:
    """Write the tower's state dict in float32 as safetensors, atomically."""
    part = path.with_suffix(".part")
    save_file({k: v.float().contiguous().cpu() for k, v in tower.state_dict().items()}, part)
    os.replace(part, path)


@dataclass(slots=True)
class _Trainer:
    """The state of a training run; `spent_s` counts seconds over all resumptions."""

    tower: Gemma4VisionModel
    heads: Heads
    optimizer: torch.optim.Optimizer
    peak_rate: float
    step: int = 0
    pictures: int = 0
    spent_s: float = 0.0

    def learn(self, batch: Batch, progress: float) -> float:
        device = self.tower.device
        for group in self.optimizer.param_groups:
            group["lr"] = _rate(progress, self.step, self.peak_rate)
        with torch.autocast(device.type, torch.bfloat16, enabled=has_fast_bf16(device.type)):
            features = encode(self.tower, batch)
        labels = {k: v.to(device) for k, v in batch.labels.items()}
        loss = _loss(self.heads(features), labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([*self.tower.parameters(), *self.heads.parameters()], 1.0)
        self.optimizer.step()
        self.step += 1
        self.pictures += len(batch.scenes)
        return loss.item()

    def save(self, out: Path) -> None:
        _save(
            out / "checkpoint.pt",
            {
                "tower": self.tower.state_dict(),
                "heads": self.heads.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
                "pictures": self.pictures,
                "spent_s": self.spent_s,
            },
        )

    def load(self, out: Path) -> None:
        state = torch.load(out / "checkpoint.pt", weights_only=True)
        self.tower.load_state_dict(state["tower"])
        self.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.pictures, self.spent_s = state["step"], state["pictures"], state["spent_s"]


def _new_trainer(seed: int, device: str, peak_rate: float) -> _Trainer:
    torch.manual_seed(seed)
    tower = new_tower()
    tower.to(torch.device(device))  # type: ignore[arg-type]  # transformers wraps Module.to
    if device == "cpu":
        use_tiled_attention(tower)
    heads = Heads(tower.config.hidden_size).to(device)
    matrices = [p for m in (tower, heads) for p in m.parameters() if p.ndim == 2]
    others = [p for m in (tower, heads) for p in m.parameters() if p.ndim != 2]
    groups = [{"params": matrices, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}]
    return _Trainer(tower, heads, torch.optim.AdamW(groups, peak_rate, (0.9, 0.98)), peak_rate)


def _train(trainer: _Trainer, out: Path, minutes: float, seed: int) -> Iterator[dict[str, float]]:
    """Train until `minutes` are spent in all; saves every 3 minutes, reports every 100 steps."""
    last = saved = time.monotonic()
    losses: list[float] = []
    while trainer.spent_s < 60 * minutes:
        # From the step alone, so that a resumed run goes on with pictures not yet seen.
        rng = Random(f"train-{seed}-{trainer.step}")
        progress = trainer.spent_s / (60 * minutes)
        losses.append(trainer.learn(sample_batch(rng, *_budgets(progress, rng)), progress))
        now = time.monotonic()
        trainer.spent_s, last = trainer.spent_s + now - last, now
        if now - saved > 180:
            trainer.save(out)
            saved = now
        if trainer.step % 100 == 0:
            yield {
                "step": trainer.step,
                "pictures": trainer.pictures,
                "minutes": round(trainer.spent_s / 60, 2),
                "loss": round(sum(losses[-100:]) / len(losses[-100:]), 4),
            }
    trainer.save(out)


def scene_from_dict(data: dict[str, Any]) -> Scene:
    """The inverse of dataclasses.asdict for a Scene."""
    fields: dict[str, Any] = {**data, "shapes": tuple(Shape(**each) for each in data["shapes"])}
    return Scene(**fields)


@torch.no_grad()
def write_features(tower: Gemma4VisionModel, path: Path, *, count: int, seed: str) -> None:
    """Save the soft tokens of `count` pictures at the real budget, for `load_features`."""
    rng = Random(seed)
    scenes: list[dict[str, Any]] = []
    grids: list[Grid] = []
    features: list[Tensor] = []
    while len(scenes) < count:
        batch = sample_batch(rng, SOFT_TOKENS, min(16, count - len(scenes)))
        fast = has_fast_bf16(tower.device.type)
        with torch.autocast(tower.device.type, torch.bfloat16, enabled=fast):
            hidden = encode(tower, batch).bfloat16().cpu()
        features += [part.clone() for part in hidden.chunk(len(batch.scenes))]
        scenes += [asdict(scene) for scene in batch.scenes]
        grids += [batch.grid] * len(batch.scenes)
    _save(path, {"scenes": scenes, "grids": grids, "features": features})


def encode_pictures(tower: Gemma4VisionModel, folder: Path, count: int, seed: int) -> None:
    """Write `count` pictures encoded by `tower` as features_NN.pt, 4,000 to a file."""
    tower.eval()
    for index in range(math.ceil(count / 4000)):
        path = folder / f"features_{index:02d}.pt"
        part = min(4000, count - 4000 * index)
        write_features(tower, path, count=part, seed=f"features-{seed}-{index}")


def prepare_vision(folder: Path, start: Path | None, count: int, device: str) -> None:
    """Fill `folder` from the trained model in `start`: its tower, and `count` encoded pictures.

    What the folder has already stays as it is.

    Raises:
        UsageError: there is no tower, neither in the folder nor in `start`.
    """
    path = folder / "tower.safetensors"
    tower = new_tower()
    if not path.exists():
        if start is None:
            raise UsageError(
                f"{path} is missing: run `python -m rqchat.pocket.training.vision.train_tower "
                f"--out {folder}` first, or name a trained model with --start, whose tower is then "
                "used"
            )
        prefix = "model.vision_tower."
        weights = {k: v.float() for k, v in load_file(start).items() if k.startswith(prefix)}
        tower.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items()})
        folder.mkdir(parents=True, exist_ok=True)
        save_tower(tower, path)
    if not sorted(folder.glob("features_*.pt")):
        tower.load_state_dict(load_file(path))
        tower.to(torch.device(device))  # type: ignore[arg-type]  # transformers wraps Module.to
        encode_pictures(tower, folder, count, seed=1)


def load_features(path: Path) -> list[tuple[Scene, Grid, Tensor]]:
    """What `write_features` wrote: (scene, (columns, rows), bf16 [cells, hidden]) per picture."""
    data = torch.load(path, weights_only=True)
    scenes = [scene_from_dict(scene) for scene in data["scenes"]]
    return list(zip(scenes, data["grids"], data["features"], strict=True))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m rqchat.pocket.training.vision.train_tower")
    parser.add_argument("--out", type=Path, required=True, help="folder for what is written")
    parser.add_argument("--minutes", type=float, default=45.0, help="training time in all")
    parser.add_argument("--resume", action="store_true", help="go on from checkpoint.pt in --out")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--features", type=int, default=12_000, help="pictures encoded at the end")
    parser.add_argument("--evaluate", type=int, default=1_000, help="held-out pictures")
    options = parser.parse_args()
    if options.resume and not (options.out / "checkpoint.pt").exists():
        parser.error(f"--resume: no checkpoint.pt in {options.out}; start without --resume")
    return options


def main() -> int:
    """Train, evaluate, write tower.safetensors and features_NN.pt; reports are lines of JSON."""
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    trainer = _new_trainer(options.seed, options.device, options.rate)
    if options.resume:
        trainer.load(options.out)
    for report in _train(trainer, options.out, options.minutes, options.seed):
        sys.stdout.write(json.dumps(report) + "\n")
        sys.stdout.flush()
    save_tower(trainer.tower, options.out / "tower.safetensors")
    encode_pictures(trainer.tower, options.out, options.features, options.seed)
    scores = evaluate(trainer.tower, trainer.heads, count=options.evaluate)
    sys.stdout.write(json.dumps({k: round(v, 4) for k, v in scores.items()}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
