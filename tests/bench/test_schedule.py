"""The scheduler keeps slots full, and the bench counts that right."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rtprune.bench.schedule import GOAL, SLOTS, Costs, Quarter, answer_lengths, play
from rtprune.cli import main
from rtprune.engine.scheduler import Scheduler

COSTS = Costs(step_ms=4.0, prefill_ms=10.0, page_ms=20.0)


def test_live_slot_steps_are_counted_while_pages_wait() -> None:
    """Two slots, answers of 1, 3 and 2 tokens: one joins after a step of two live slots, and then none waits."""
    filled = play(np.array([1, 3, 2]), 2, Quarter(2), COSTS)
    assert (filled.live, filled.joins) == (1.0, 2)
    assert filled.stalled == pytest.approx(20.0 / (20.0 + 60.0 + 4.0))


def test_units_that_drain_leave_slots_idle() -> None:
    """Units of two: the second waits for three steps, of which one slot is idle in two."""
    filled = play(np.array([1, 3, 5, 5]), 2, Quarter(2), COSTS, unit_pages=2)
    assert (filled.live, filled.joins) == (4 / 6, 2)


def test_answers_are_as_long_as_they_are_said_to_be() -> None:
    lengths = answer_lengths(100_000, seed=11)
    usual = lengths[lengths < 8192]
    assert usual.mean() == pytest.approx(1000, rel=0.02)
    assert np.log(usual).std() == pytest.approx(0.7, rel=0.02)
    assert (lengths == 8192).mean() == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize("slots", SLOTS)
def test_the_goal_is_met_with_seeds_the_bench_does_not_use(slots: int) -> None:
    filled = play(answer_lengths(20 * slots, seed=1234 + slots), slots, Scheduler(), COSTS)
    assert filled.live >= GOAL
    assert filled.stalled < 0.05


def test_the_bench_compares_the_rules(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "schedule", "--seeds", "1", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    live = {(row["slots"], row["rule"]): row["live"] for row in rows}
    for slots in SLOTS:
        assert live[slots, "as the engine does"] > live[slots, "a quarter free"] > live[slots, "unit by unit"]
    assert main(["bench", "schedule", "--seeds", "1"]) == 0
    assert "simulated: no device was measured" in capsys.readouterr().out
