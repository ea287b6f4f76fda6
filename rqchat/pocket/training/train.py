"""Trains the pocket model: `python -m rqchat.pocket.training.train --vision DIR --out DIR`.

`--vision` is the folder that `python -m rqchat.pocket.training.vision.train_tower` wrote: the tower
and pictures encoded by it. The tower itself is not changed here. Stages follow each other on one
checkpoint, which is written every few minutes and picked up again with `--resume`; the learning
rate falls to zero in the last stage. `python -m rqchat.pocket.training.export_model` turns the
checkpoint into the folder that ships.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from rqchat.pocket.training.architecture import build_model, model_folder
from rqchat.pocket.training.attention import (
    TRAINING_ATTENTION,
    picture_masks,
    register_training_attention,
)
from rqchat.pocket.training.batches import Batch, BatchMaker
from rqchat.pocket.training.language.dialogues import Prose
from rqchat.pocket.training.language.prose import collect_training_prose
from rqchat.pocket.training.tokenization import train_tokenizer
from rqchat.pocket.training.vision.train_tower import load_features

__all__ = ["STAGES", "Stage", "Trainer", "answer_loss"]

_PROSE_CHARACTERS = 16_000_000


@dataclass(frozen=True, slots=True)
class Stage:
    """A share of the training time.

    Attributes:
        share: of the whole time.
        mix: (kind of batch, row length in tokens, weight).
        learning_rate: of the matrices at the start and at the end of the stage.
    """

    share: float
    mix: tuple[tuple[str, int, float], ...]
    learning_rate: tuple[float, float]


STAGES = {
    "short": Stage(0.4, (("documents", 512, 0.9), ("small_talk", 128, 0.1)), (0.02, 0.02)),
    "mixed": Stage(
        0.2,
        (("documents", 1024, 0.5), ("pictures", 192, 0.4), ("small_talk", 128, 0.1)),
        (0.02, 0.02),
    ),
    "long": Stage(
        0.1,
        (
            ("documents", 4096, 0.2),
            ("documents", 1024, 0.15),
            ("pictures", 192, 0.57),
            ("small_talk", 128, 0.08),
        ),
        (0.02, 0.0155),
    ),
    "polish": Stage(
        0.3,
        (
            ("documents", 4096, 0.1),
            ("documents", 1024, 0.06),
            ("pictures", 192, 0.8),
            ("small_talk", 128, 0.04),
        ),
        (0.0155, 0.0),
    ),
}


def answer_loss(model: Any, hidden: Tensor, batch: Batch) -> Tensor:
    """Cross entropy of the learned tokens of a Gemma4ForConditionalGeneration.

    The head runs on those tokens alone. `hidden` is [rows, tokens, hidden].
    """
    targets = batch.learned[:, 1:]
    logits = model.lm_head(hidden[:, :-1][targets]).float()
    cap = model.config.text_config.final_logit_softcapping
    return F.cross_entropy(cap * torch.tanh(logits / cap), batch.ids[:, 1:][targets])


class Trainer:
    """The model, its two optimizers and its checkpoint."""

    def __init__(self, folder: Path, *, seed: int, compiled: bool, device: str) -> None:
        register_training_attention()
        self.device = device
        self.folder = folder
        model: Any = build_model(seed)
        self.model = model.to(device)
        self.language_model = self.model.model.language_model
        self.language_model.config._attn_implementation = TRAINING_ATTENTION
        self.step = 0
        named = [
            *self.language_model.named_parameters(),
            *self.model.model.embed_vision.named_parameters(),
        ]
        self._trained = [parameter for _, parameter in named]
        matrices = [p for name, p in named if p.ndim == 2 and "embed_t" not in name]
        others = [p for name, p in named if p.ndim != 2 or "embed_t" in name]
        self._muon = torch.optim.Muon(matrices, lr=0.02, weight_decay=0.0, momentum=0.95)
        self._adam = torch.optim.AdamW(others, lr=0.003, betas=(0.9, 0.98), weight_decay=0.0)
        self._forward = self.language_model.forward
        if compiled:
            self._forward = torch.compile(self.language_model.forward, dynamic=False)

    def train_step(self, batch: Batch, learning_rate: float) -> float:
        """One optimizer step; returns the loss."""
        batch = batch.to(self.device)
        warm = min(1.0, (self.step + 1) / 50)
        for optimizer, factor in ((self._muon, 1.0), (self._adam, 0.15)):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * factor * warm
        with torch.autocast(self.device.partition(":")[0], torch.bfloat16):
            loss = answer_loss(self.model, self._hidden(batch), batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self._trained, 1.0)
        for optimizer in (self._muon, self._adam):
            optimizer.step()  # type: ignore[no-untyped-call]
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return loss.item()

    def _hidden(self, batch: Batch) -> Tensor:
        """Last hidden states [rows, tokens, hidden]."""
        embedded = self.language_model.embed_tokens(batch.ids)
        masks: dict[str, Tensor | None] = {"full_attention": None, "sliding_attention": None}
        if batch.features is not None:
            is_image = batch.ids == self.model.config.image_token_id
            soft = self.model.model.embed_vision(batch.features).to(embedded.dtype)
            embedded = embedded.masked_scatter(is_image[..., None], soft)
            masks = picture_masks(is_image, self.language_model.config.sliding_window)
        output = self._forward(inputs_embeds=embedded, attention_mask=masks, use_cache=False)
        hidden: Tensor = output.last_hidden_state
        return hidden

    def save(self) -> None:
        """Write the checkpoint so that a cut leaves the one before."""
        state = {
            "model": self.model.state_dict(),
            "muon": self._muon.state_dict(),
            "adam": self._adam.state_dict(),
            "step": self.step,
        }
        temporary = self.folder / "checkpoint.tmp"
        torch.save(state, temporary)
        temporary.replace(self.folder / "checkpoint.pt")

    @property
    def parameter_count(self) -> int:
        """Of the whole model, tower included."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def load_tower(self, path: Path) -> None:
        """Take the vision tower trained by `rqchat.pocket.training.vision.train_tower`."""
        self.model.model.vision_tower.load_state_dict(load_file(path, device=self.device))

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint; the tower stays as `load_tower` left it."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        weights = {k: v for k, v in state["model"].items() if "vision_tower" not in k}
        self.model.load_state_dict(weights, strict=False)
        self._muon.load_state_dict(state["muon"])
        self._adam.load_state_dict(state["adam"])
        self.step = state["step"]


def run_stage(
    trainer: Trainer, maker: BatchMaker, stage: Stage, minutes: float, rng: random.Random
) -> None:
    """Train for `minutes`, printing a line every 20 steps and saving every 4 minutes."""
    start = last_save = time.monotonic()
    losses: dict[str, list[float]] = {}
    tokens = 0
    while (share := (time.monotonic() - start) / (60 * minutes)) < 1.0:
        kind, row_tokens, _ = rng.choices(stage.mix, [weight for *_, weight in stage.mix])[0]
        batch = getattr(maker, kind)(row_tokens)
        first, last = stage.learning_rate
        rate = first + (last - first) * share
        losses.setdefault(f"{kind}{row_tokens}", []).append(trainer.train_step(batch, rate))
        tokens += batch.ids.numel()
        if trainer.step % 20 == 0:
            means = {kind: round(sum(v) / len(v), 4) for kind, v in losses.items()}
            record = {"step": trainer.step, "share": round(share, 3), "lr": round(rate, 5)} | means
            record["tokens_per_s"] = round(tokens / (time.monotonic() - start))
            sys.stdout.write(json.dumps(record) + "\n")
            sys.stdout.flush()
            losses.clear()
        if time.monotonic() - last_save > 240:
            trainer.save()
            last_save = time.monotonic()
    trainer.save()


def main() -> None:
    """Read the arguments and run the stages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoint and log")
    parser.add_argument("--vision", type=Path, required=True, help="folder of tower and features")
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--stages", default=",".join(STAGES), help="which of them, in order")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--tokens-per-batch", type=int, default=8192)
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    prose = Prose.from_texts(collect_training_prose(_PROSE_CHARACTERS))
    if not (model_folder() / "tokenizer.json").exists():
        train_tokenizer(prose, model_folder(), arguments.seed)
    trainer = Trainer(
        arguments.out, seed=arguments.seed, compiled=arguments.compile, device=arguments.device
    )
    trainer.load_tower(arguments.vision / "tower.safetensors")
    if arguments.resume:
        trainer.resume(arguments.out / "checkpoint.pt")
    features = sorted(arguments.vision.glob("features_*.pt"))
    maker = BatchMaker(
        PreTrainedTokenizerFast.from_pretrained(model_folder()),
        prose,
        [picture for path in features for picture in load_features(path)],
        parameters=f"{round(trainer.parameter_count / 1e6)} million",
        tokens_per_batch=arguments.tokens_per_batch,
        seed=arguments.seed * 1_000_003 + trainer.step,
    )
    chosen = [STAGES[name] for name in arguments.stages.split(",")]
    total = sum(stage.share for stage in chosen)
    for stage in chosen:
        minutes = arguments.minutes * stage.share / total
        run_stage(trainer, maker, stage, minutes, random.Random(trainer.step))


if __name__ == "__main__":
    main()
