"""Single stages are measured on full batches, and only while the batch stays full."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from rtprune.bench import stages
from rtprune.bench.arithmetic import arithmetic_of
from rtprune.bench.pages import drawn_pages
from rtprune.bench.random_model import random_model
from rtprune.bench.stages import STEPS, Batch, copy_bandwidth_gb_s
from rtprune.models.deepseek_ocr import DeepSeekOcr
from rtprune.pruning import PruneConfig
from tests.bench.sizes import VOCABULARY, small_config

UNPRUNED = PruneConfig(ratio=0.0)
PROMPT = 73 + len("\nFree OCR.") + 1  # mode tiny; every character is a token, behind the first one


@pytest.fixture(scope="module")
def model() -> DeepSeekOcr:
    return random_model(small_config(), device=torch.device("cpu"), dtype=torch.float32)


def batch_of(model: DeepSeekOcr, slots: int) -> Batch:
    views = [model.prepare(page.picture, "tiny") for page in drawn_pages(2, built_in=False)]
    return Batch(model, "text", views, model.encode(views), slots)


def test_a_batch_is_as_large_as_the_slots_whatever_the_pages(model: DeepSeekOcr) -> None:
    assert batch_of(model, 5).prefill(1).pages == 5
    step = batch_of(model, 3).step(UNPRUNED, 100, None, 1.0)
    assert step is not None
    assert (step.pages, step.read_mb, step.bound_ms, step.over_bound) == (3, None, None, None)


def test_pruned_prefill_counts_pruning_itself(model: DeepSeekOcr, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that stands still but for a millisecond for each page that is pruned."""
    prune, now = stages.prune_batch, 0.0

    def pruning(*given: Any) -> Any:
        nonlocal now
        now += len(given[0])
        return prune(*given)

    def timed(call: Callable[[], object], repeats: int, device: torch.device) -> stages.Milliseconds:
        begin = now
        call()
        return stages.Milliseconds(*[now - begin + 1] * 3)

    monkeypatch.setattr(stages, "prune_batch", pruning)
    monkeypatch.setattr(stages, "measured", timed)
    cost = batch_of(model, 2).prefill(3)
    assert cost.tokens_unpruned == 73
    assert 0 < cost.tokens_pruned < 73
    assert [times.median for times in (cost.unpruned, cost.pruned, cost.prune)] == [0.5, 1.5, 1.5]


def test_the_bound_is_what_must_be_read_at_the_bandwidth_given(model: DeepSeekOcr) -> None:
    arithmetic = arithmetic_of(model)
    assert arithmetic is not None
    step = batch_of(model, 3).step(UNPRUNED, 100, arithmetic, 2.0)
    assert step is not None
    assert step.tokens_held == PROMPT + stages.WARM_UP + STEPS / 2
    assert step.read_mb == pytest.approx(arithmetic.step_bytes([step.tokens_held] * 3) / 1e6, abs=1e-3)
    assert step.bound_ms == pytest.approx(step.read_mb / 2.0, abs=1e-3)


def test_experts_are_counted_as_one_step_touches_them(model: DeepSeekOcr) -> None:
    arithmetic = arithmetic_of(model)
    step = batch_of(model, 1).step(UNPRUNED, 100, arithmetic, 1.0)
    assert step is not None
    assert (step.experts_expected, step.experts_touched) == (2.0, 2.0)
    cut = batch_of(model, 1).step(UNPRUNED, 5, arithmetic, 1.0)
    assert cut is not None
    assert cut.experts_touched is None


def test_steps_are_timed_no_longer_than_answers_go_on(model: DeepSeekOcr) -> None:
    step = batch_of(model, 2).step(UNPRUNED, 6, None, 1.0)
    assert step is not None
    assert step.tokens_held < PROMPT + 6


def test_pages_that_end_at_once_leave_no_step_to_time(model: DeepSeekOcr, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "end_token_ids", frozenset(range(VOCABULARY)))
    assert batch_of(model, 2).step(UNPRUNED, 100, None, 1.0) is None


def test_a_copys_bandwidth_counts_what_is_read_and_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "measured", lambda call, repeats, device: stages.Milliseconds(100.0, 200.0, 300.0))
    monkeypatch.setattr(stages, "_COPIED", {"cpu": 10**8})
    assert copy_bandwidth_gb_s(torch.device("cpu")) == 2.0
