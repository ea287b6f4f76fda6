"""A training run: its optimizer, and that a run which was cut goes on as if it had not been."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rqchat.pocket.training.batches import Batch
from rqchat.pocket.training.export_model import load_checkpoint
from rqchat.pocket.training.muon import Muon
from rqchat.pocket.training.train import Trainer


@pytest.mark.parametrize("shape", [(64, 32), (32, 64), (48, 48)])
def test_muon_steps_as_torchs_own_does(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for _ in range(2)]
    theirs = [torch.nn.Parameter(parameter.detach().clone()) for parameter in ours]
    before = torch.stack([parameter.detach().clone() for parameter in ours])
    first = Muon(ours, lr=0.1, momentum=0.95)
    second = torch.optim.Muon(theirs, lr=0.1, momentum=0.95, weight_decay=0.0)
    for _ in range(3):
        for own, other in zip(ours, theirs, strict=True):
            own.grad = torch.randn(shape)
            other.grad = own.grad.clone()
        first.step()
        second.step()
    moved = torch.stack([parameter.detach() for parameter in ours]) - before
    expected = torch.stack([parameter.detach() for parameter in theirs]) - before
    # torch's own orthogonalises in bf16.
    assert (moved - expected).norm() < 0.03 * expected.norm()


def batch(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(30, 4096, (2, 128), generator=generator)
    segments = torch.tensor([[0] * 60 + [1] * 68, [2] * 128])
    return Batch(ids, torch.rand(2, 128, generator=generator) < 0.3, None, segments)


def test_a_resumed_run_goes_on_exactly(tmp_path: Path) -> None:
    whole = Trainer(tmp_path, seed=1, compiled=False, device="cpu")
    for index in range(2):
        whole.train_step(batch(index), 0.01)
    whole.save({"stage": 1, "spent_s": 2.5, "rng": "r"})
    expected = [whole.train_step(batch(index), 0.01) for index in (2, 3)]
    again = Trainer(tmp_path, seed=7, compiled=False, device="cpu")
    assert again.resume(tmp_path / "checkpoint.pt") == {"stage": 1, "spent_s": 2.5, "rng": "r"}
    assert [again.train_step(batch(index), 0.01) for index in (2, 3)] == expected


def test_the_averaged_weights_are_exported(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path, seed=1, compiled=False, device="cpu")
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    start = trainer.model.state_dict()[name].clone()
    trainer.train_step(batch(0), 0.01)
    end = trainer.model.state_dict()[name].clone()
    trainer.save({})
    exported = load_checkpoint(tmp_path / "checkpoint.pt").state_dict()[name]
    # After one step one part in eleven of the average is the old weight.
    torch.testing.assert_close(exported, start / 11 + end * 10 / 11)
