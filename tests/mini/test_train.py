"""Training goes on where it was, and what it exports is a checkpoint in the published layout."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rtprune.mini.train import Team, Trainer, all_experts
from rtprune.models import load_model


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["encoder", "decoder", "joint"])
def test_a_stage_changes_what_it_trains_and_nothing_else(tmp_path: Path, stage: str) -> None:
    trainer = Trainer(tmp_path, words=(5, 8))
    trainer.progress.lesson = 1
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.run(stage, minutes=0.0001, pages=1, rate=1e-3, last_rate=1e-3)
    changed = {name for name, tensor in trainer.model.state_dict().items() if not torch.equal(tensor, before[name])}
    vision = {name for name in before if "vision_tower" in name or "multi_modal_projector" in name}
    assert bool(changed & vision) == (stage != "decoder")
    assert bool(changed - vision) == (stage != "encoder")

    again = Trainer(tmp_path)
    assert again.progress == trainer.progress
    assert again.progress.step > 0
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name])


def test_an_export_loads_whole_and_writes_what_it_reads(tmp_path: Path) -> None:
    Trainer(tmp_path / "state").export(tmp_path / "checkpoint")
    model = load_model(str(tmp_path / "checkpoint"))
    assert model.modes == ("tiny",)
    assert model.tasks == ("text",)
    prompt = model.prompt("text")
    assert model.detokenize(prompt.after.tolist()) == "\nFree OCR."
    assert (tmp_path / "checkpoint" / "model.safetensors").stat().st_size < 25_000_000


def test_asking_all_experts_equals_asking_the_chosen_ones(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path)
    moe = trainer.model.model.language_model.layers[1].mlp
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(5, trainer.model.config.text_config.hidden_size, generator=generator)
    chosen = torch.tensor([[0, 1], [2, 3], [1, 3], [0, 2], [3, 0]])
    weights = torch.rand(5, 2, generator=generator)
    expected = type(moe.experts).forward(moe.experts, hidden, chosen, weights)
    assert torch.allclose(all_experts(moe.experts, hidden, chosen, weights), expected, atol=1e-5)


def test_a_team_of_one_leaves_gradients_and_values_alone() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.tensor([1.0, 2.0, 3.0])
    assert Team().average([parameter], [4.0]) == [4.0]
    assert parameter.grad.tolist() == [1.0, 2.0, 3.0]
