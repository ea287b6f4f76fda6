"""Trains the pocket model: `python -m rqchat.pocket.training.train --vision DIR --out DIR`.

`--vision` is the folder that `python -m rqchat.pocket.training.vision.train_tower` wrote: the tower
and pictures encoded by it; where it is empty it is filled with the tower of `--start`. The tower
itself is not changed here. Stages follow each other on one checkpoint, which is written every few
minutes and on SIGTERM, and picked up again with `--resume`; the learning rate falls to zero in the
last stage. Minutes are those in which the program had a core.
`python -m rqchat.pocket.training.export_model` turns the checkpoint into the folder that ships.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
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
    conversation_masks,
    register_training_attention,
    segment_positions,
)
from rqchat.pocket.training.batches import Batch, BatchMaker, Steps
from rqchat.pocket.training.language.dialogues import Prose
from rqchat.pocket.training.language.prose import collect_training_prose
from rqchat.pocket.training.muon import Muon
from rqchat.pocket.training.tokenization import train_tokenizer
from rqchat.pocket.training.vision.tower import has_fast_bf16
from rqchat.pocket.training.vision.train_tower import load_features, prepare_vision

__all__ = ["STAGES", "Stage", "Trainer", "answer_loss"]

_PROSE_CHARACTERS = 6_000_000
_AVERAGE_KEEPS = 0.98  # of the averaged weights, a step


@dataclass(frozen=True, slots=True)
class Stage:
    """A share of the training time.

    Attributes:
        share: of the whole time.
        mix: (kind of batch, row length in tokens, weight).
        rate: share of the peak learning rate at the start and at the end of the stage.
    """

    share: float
    mix: tuple[tuple[str, int, float], ...]
    rate: tuple[float, float]


_NOTES = (
    ("mixed", 128, 0.36),
    ("mixed", 256, 0.39),
    ("mixed", 384, 0.08),
    ("documents", 1024, 0.15),
    ("documents", 4096, 0.02),
)
# Rows of short notes alone cost it facts in long texts (docs/log.md)
_DOCUMENTS = (
    ("mixed", 128, 0.25),
    ("mixed", 256, 0.33),
    ("mixed", 384, 0.06),
    ("documents", 1024, 0.32),
    ("documents", 4096, 0.04),
)
STAGES = {
    "read": Stage(0.3, (("documents", 512, 0.6), ("mixed", 256, 0.4)), (1.0, 1.0)),
    "notes": Stage(0.5, _NOTES, (1.0, 1.0)),
    "polish": Stage(0.2, _DOCUMENTS, (1.0, 0.0)),
}


def answer_loss(model: Any, hidden: Tensor, batch: Batch) -> Tensor:
    """Cross entropy of the learned tokens of a Gemma4ForConditionalGeneration.

    The head runs on those tokens alone. `hidden` is [rows, tokens, hidden].
    """
    targets = batch.learned[:, 1:]
    # The head is run without the model around it, so its soft cap is applied here.
    logits = model.lm_head(hidden[:, :-1][targets]).float()
    cap = model.config.text_config.final_logit_softcapping
    return F.cross_entropy(cap * torch.tanh(logits / cap), batch.ids[:, 1:][targets])


class Trainer:
    """The model, its two optimizers and its checkpoint."""

    def __init__(
        self, folder: Path, *, seed: int, compiled: bool, device: str, start: Path | None = None
    ) -> None:
        register_training_attention()
        self.device = device
        self.folder = folder
        model: Any = build_model(seed)
        if start is not None:
            known = {name: value.float() for name, value in load_file(start).items()}
            # An exported model has no `lm_head`: it is the embedding's own weight.
            model.load_state_dict(known, strict=False)
        self.model = model.to(device)
        self.language_model = self.model.model.language_model
        self.language_model.config._attn_implementation = TRAINING_ATTENTION
        self.step = 0
        self.is_stopped = False
        named = [
            *self.language_model.named_parameters(),
            *self.model.model.embed_vision.named_parameters(),
        ]
        self._trained = [parameter for _, parameter in named]
        self._average = [parameter.detach().clone() for parameter in self._trained]
        self._names = {id(p): name for name, p in self.model.named_parameters()}
        # Muon is for matrices that multiply; the rows of the embedding are looked up.
        matrices = [p for name, p in named if p.ndim == 2 and "embed_t" not in name]
        others = [p for name, p in named if p.ndim != 2 or "embed_t" in name]
        self._muon = Muon(matrices, lr=0.02, momentum=0.95)
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
        kind = self.device.partition(":")[0]
        with torch.autocast(kind, torch.bfloat16, enabled=has_fast_bf16(self.device)):
            loss = answer_loss(self.model, self._hidden(batch), batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self._trained, 1.0)
        for optimizer in (self._muon, self._adam):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        # The average forgets faster at first: it began with weights that knew nothing.
        keep = min(_AVERAGE_KEEPS, self.step / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(self._average, self._trained, 1 - keep)
        return loss.item()

    def _hidden(self, batch: Batch) -> Tensor:
        """Last hidden states [rows, tokens, hidden]."""
        embedded = self.language_model.embed_tokens(batch.ids)
        masks: dict[str, Tensor | None] = {"full_attention": None, "sliding_attention": None}
        is_image = batch.ids == self.model.config.image_token_id
        if batch.features is not None:
            soft = self.model.model.embed_vision(batch.features).to(embedded.dtype)
            embedded = embedded.masked_scatter(is_image[..., None], soft)
        positions = None
        if batch.segments is not None:
            window = self.language_model.config.sliding_window
            masks = conversation_masks(batch.segments, is_image, window)
            positions = segment_positions(batch.segments)
        output = self._forward(
            inputs_embeds=embedded, attention_mask=masks, position_ids=positions, use_cache=False
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def save(self, progress: dict[str, Any]) -> None:
        """Write the checkpoint so that a cut leaves the one before.

        `progress` is what `resume` gives back. "average" holds the weights averaged over the last
        steps, under their names: they are what is exported.
        """
        names = [self._names[id(parameter)] for parameter in self._trained]
        state = {
            "model": self.model.state_dict(),
            "average": dict(zip(names, self._average, strict=True)),
            "muon": self._muon.state_dict(),
            "adam": self._adam.state_dict(),
            "step": self.step,
            "progress": progress,
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

    def resume(self, path: Path) -> dict[str, Any]:
        """Go on from a checkpoint; the tower stays as `load_tower` left it.

        Returns:
            What `save` was given.
        """
        state = torch.load(path, map_location=self.device, weights_only=True)
        weights = {k: v for k, v in state["model"].items() if "vision_tower" not in k}
        self.model.load_state_dict(weights, strict=False)
        for own, parameter in zip(self._average, self._trained, strict=True):
            own.copy_(state["average"][self._names[id(parameter)]])
        self._muon.load_state_dict(state["muon"])
        self._adam.load_state_dict(state["adam"])
        self.step = state["step"]
        progress: dict[str, Any] = state["progress"]
        return progress


@dataclass(slots=True)
class _Clock:
    """What a run has done; `spent_s` counts training alone, also over resumptions."""

    stage: int = 0
    spent_s: float = 0.0


def _stopwatch(device: str) -> Callable[[], float]:
    """Seconds since the last call; on a CPU those in which the process waited for one are left out.

    So a run that others hold up, or that is stopped for a while, still takes all its steps.
    """
    wall_s, cpu_s = time.monotonic(), time.process_time()

    def lap() -> float:
        nonlocal wall_s, cpu_s
        before = wall_s, cpu_s
        wall_s, cpu_s = time.monotonic(), time.process_time()
        passed = wall_s - before[0]
        return min(passed, cpu_s - before[1]) if device == "cpu" else passed

    return lap


def _stop_after_a_step(trainer: Trainer) -> None:
    """Let the first SIGTERM end the run with a checkpoint instead of in the middle of a step."""

    def stop(number: int, frame: object) -> None:
        trainer.is_stopped = True

    signal.signal(signal.SIGTERM, stop)


def run_stage(
    trainer: Trainer,
    batches: Iterable[tuple[str, Batch]],
    stage: Stage,
    seconds: float,
    clock: _Clock,
    peak: float,
) -> None:
    """Train until `seconds` are spent; a line every 20 steps, saved every 3 minutes."""
    last_save = time.monotonic()
    losses: dict[str, list[float]] = {}
    tokens, since = 0, clock.spent_s
    trained_s = _stopwatch(trainer.device)
    for kind, batch in batches:
        share = clock.spent_s / seconds
        if share >= 1.0 or trainer.is_stopped:
            break
        first, last = stage.rate
        rate = peak * (first + (last - first) * share)
        losses.setdefault(kind, []).append(trainer.train_step(batch, rate))
        tokens += batch.ids.numel()
        clock.spent_s += trained_s()
        if trainer.step % 20 == 0:
            means = {kind: round(sum(v) / len(v), 4) for kind, v in losses.items()}
            record = {"step": trainer.step, "share": round(share, 3), "lr": round(rate, 5)} | means
            record["tokens_per_s"] = round(tokens / (clock.spent_s - since))
            sys.stdout.write(json.dumps(record) + "\n")
            sys.stdout.flush()
            losses.clear()
            tokens, since = 0, clock.spent_s
        if time.monotonic() - last_save > 180:
            trainer.save(asdict(clock))
            last_save = time.monotonic()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoint and log")
    parser.add_argument("--vision", type=Path, required=True, help="folder of tower and features")
    parser.add_argument(
        "--minutes", type=float, required=True, help="of all stages, resumed or not"
    )
    parser.add_argument("--stages", default=",".join(STAGES), help="which of them, in order")
    parser.add_argument("--start", type=Path, help="safetensors to begin with, not random weights")
    parser.add_argument("--resume", action="store_true", help="go on from checkpoint.pt in --out")
    parser.add_argument("--anew", action="store_true", help="resume, but begin the stages again")
    parser.add_argument("--pictures", type=int, default=12_000, help="to encode if there are none")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=0.02, help="peak learning rate of matrices")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--tokens-per-batch", type=int, default=8192)
    parser.add_argument("--workers", type=int, default=0, help="processes that draw batches")
    parser.add_argument("--compile", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Read the arguments and run the stages."""
    arguments = _options()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    prose = Prose.from_texts(collect_training_prose(_PROSE_CHARACTERS))
    if not (model_folder() / "tokenizer.json").exists():
        train_tokenizer(prose, model_folder(), arguments.seed)
    trainer = Trainer(
        arguments.out,
        seed=arguments.seed,
        compiled=arguments.compile,
        device=arguments.device,
        start=arguments.start,
    )
    prepare_vision(arguments.vision, arguments.start, arguments.pictures, arguments.device)
    trainer.load_tower(arguments.vision / "tower.safetensors")
    features = sorted(arguments.vision.glob("features_*.pt"))
    maker = BatchMaker(
        PreTrainedTokenizerFast.from_pretrained(model_folder()),
        prose,
        [picture for path in features for picture in load_features(path)],
        parameters=f"{round(trainer.parameter_count / 1e6)} million",
        tokens_per_batch=arguments.tokens_per_batch,
        seed=arguments.seed * 1_000_003,
    )
    clock = _Clock()
    _stop_after_a_step(trainer)
    if arguments.resume:
        done = trainer.resume(arguments.out / "checkpoint.pt")
        if not arguments.anew:
            clock = _Clock(done["stage"], done["spent_s"])
    chosen = [STAGES[name] for name in arguments.stages.split(",")]
    total = sum(stage.share for stage in chosen)
    for index, stage in enumerate(chosen):
        if index < clock.stage or trainer.is_stopped:
            continue
        # The stage that a resumed run was in keeps the seconds that it has spent.
        if index > clock.stage:
            clock = _Clock(index)
        seconds = 60 * arguments.minutes * stage.share / total
        batches = Steps(maker, stage.mix).from_step(trainer.step, arguments.workers)
        run_stage(trainer, batches, stage, seconds, clock, arguments.rate)
    trainer.save(asdict(clock))


if __name__ == "__main__":
    main()
