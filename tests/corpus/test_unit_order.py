"""A run goes round all units once, and runs begun together hardly meet."""

from __future__ import annotations

import heapq
import random
from collections.abc import Collection
from itertools import pairwise

import numpy as np
import pytest

from rtprune.corpus.unit_order import WINDOW, UnitOrder
from rtprune.dataset import PageSlice, Unit


def units(numbers: Collection[int]) -> list[Unit]:
    return [Unit(str(number), (PageSlice(str(number), "a.pdf", 1, 2),)) for number in numbers]


def order_of(count: int, seed: str) -> UnitOrder:
    return UnitOrder(np.arange(count), np.full(count, 2), units, seed)


@pytest.mark.parametrize("count", [0, 1, WINDOW, 3 * WINDOW + 5])
def test_every_unit_comes_once(count: int) -> None:
    order = order_of(count, "r1")
    assert order.left == count
    taken = [int(unit.unit_id) for unit in order]
    assert sorted(taken) == list(range(count))
    assert order.left == 0


def test_units_follow_one_another_as_in_the_plan_but_for_one_leap_round() -> None:
    taken = [int(unit.unit_id) for unit in order_of(500, "r1")]
    assert sum(after != before + 1 for before, after in pairwise(taken)) <= 1


def test_runs_start_at_places_of_their_own() -> None:
    assert len({next(order_of(1000, f"r{run}")).unit_id for run in range(20)}) > 15


def test_after_a_leap_every_unit_still_comes_once() -> None:
    order, taken = order_of(300, "r1"), []
    for unit in order:
        taken.append(int(unit.unit_id))
        if len(taken) % 40 == 0:
            order.leap()
    assert sorted(taken) == list(range(300))


def test_what_others_have_done_is_left_out() -> None:
    order = order_of(100, "r1")
    taken = {int(next(order).unit_id) for _ in range(10)}
    left = np.array(sorted(set(range(50)) | taken))
    gone = len(set(range(50, 100)) - taken)
    assert order.keep(left) == (gone, 2 * gone)
    assert {int(unit.unit_id) for unit in order} == set(range(50)) - taken


def doubled(seed: int, count: int, in_flight: int) -> int:
    """How many of ``count`` units two runs begun together do twice, each with so many in flight; see `UnitReader`."""
    dice = random.Random(seed)
    orders = [order_of(count, f"run {seed}-{run}") for run in range(2)]
    done: dict[str, float] = {}
    twice = 0
    agenda: list[tuple[float, float, int, str]] = []

    def begin(run: int, now: float) -> None:
        for unit in orders[run]:
            if done.get(unit.unit_id, now + 1) > now:
                heapq.heappush(
                    agenda, (now + dice.lognormvariate(0, 0.3), len(done) + dice.randrange(9), run, unit.unit_id)
                )
                return
            orders[run].leap()

    for run in range(2):
        for _ in range(in_flight):
            begin(run, 0.0)
    while agenda:
        now, _, run, unit_id = heapq.heappop(agenda)
        if unit_id in done:
            twice += 1
            orders[run].leap()
        else:
            done[unit_id] = now
        begin(run, now)
    assert len(done) == count
    return twice


@pytest.mark.parametrize("in_flight", [2, 8, 16])
def test_two_runs_begun_together_do_five_percent_twice_at_most(in_flight: int) -> None:
    """On the mean over runs whose pace is their own; each unit is asked for when it is begun, as workers do."""
    shares = [doubled(seed, 1000, in_flight) / 1000 for seed in range(10)]
    assert sum(shares) / len(shares) <= 0.05
