"""Training goes on where it was, and what it exports is a checkpoint in the published layout."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from rtprune.mini.feeding import LESSONS, Batches, Drawing, Feed
from rtprune.mini.generator import draw_page
from rtprune.mini.lessons import Batch, make_batch
from rtprune.mini.stepping import all_experts, relative_positions
from rtprune.mini.train import Trainer
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


@pytest.mark.slow
def test_the_curriculum_runs_through_its_stages_and_starts_from_what_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = Trainer(tmp_path / "state", words=(5, 8))
    trainer.start_from("mini")
    shipped = load_model("mini", dtype=torch.float32).network.state_dict()
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, shipped[name])
    trainer.curriculum(0.03, 1, 1, tmp_path / "checkpoint")
    assert trainer.progress.stage == "joint"
    assert trainer.progress.lesson == len(LESSONS) - 1
    assert load_model(str(tmp_path / "checkpoint")).tasks == ("text",)


def test_fonts_come_in_one_after_the_other_and_all_of_them_in_time(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path)
    lessons = [trainer._lesson("encoder", share / 100) for share in range(101)]
    assert lessons == sorted(lessons)
    assert set(lessons) == set(range(len(LESSONS)))
    assert lessons[30] == len(LESSONS) - 1
    assert trainer._lesson("joint", 0.0) == len(LESSONS) - 1
    drawing = Drawing.shared()
    drawing.begin("joint", 2)
    batch = next(iter(Batches(drawing, 3, (5, 8), 0)))
    assert batch.pixels.shape == (3, 512, 512)
    assert batch.pruned.any()


@pytest.mark.parametrize("count", [1, 2, 8])
def test_relative_positions_are_those_of_the_model_itself(count: int) -> None:
    table = torch.arange(2.0 * (2 * count - 1)).view(-1, 2)
    found = relative_positions(torch.nn.Identity(), count, count, table)
    assert found.shape == (count, count, 2)
    for query in range(count):
        for key in range(count):
            assert torch.equal(found[query, key], table[query - key + count - 1])
    with pytest.raises(ValueError, match="do not fit"):
        relative_positions(torch.nn.Identity(), count, count + 1, table)


def test_a_feed_shows_every_fresh_batch_and_earlier_ones_while_there_is_none() -> None:
    rng = np.random.default_rng(0)
    pages = [[draw_page(rng, "training")] for _ in range(3)]
    fresh: queue.Queue[Batch | None] = queue.Queue()
    feed = Feed(iter(fresh.get, None), torch.device("cpu"), seed=0)
    known = []
    for page in pages:
        fresh.put(make_batch(page, rng))
        while not any(np.array_equal(seen.pixels[0], page[0].picture) for seen in known):
            known.append(next(feed))
    assert {id(next(feed)) for _ in range(100)} == {id(batch) for batch in known}
    assert len({id(batch) for batch in known}) == 3
    feed.forget()
    fresh.put(make_batch(pages[0], rng))
    assert id(next(feed)) not in {id(batch) for batch in known}
    fresh.put(None)


def test_a_feed_whose_pages_cannot_be_drawn_says_so() -> None:
    def torn() -> Iterator[Batch]:
        rng = np.random.default_rng(0)
        yield make_batch([draw_page(rng, "training")], rng)
        raise OSError("no font")

    feed = Feed(torn(), torch.device("cpu"), seed=0)
    with pytest.raises(OSError, match="no font"):
        deque(feed, maxlen=0)  # without an end otherwise
