"""What the driver does for each unit: queue, loop and pool with simulated workers, on one core."""

from __future__ import annotations

import heapq
import random
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import Any

import numpy as np

from rtprune.corpus.pool import Event, Pool
from rtprune.corpus.ray_cluster import Placement
from rtprune.corpus.read_units import UnitReader, UnitTask
from rtprune.corpus.values import Assignment, Pulse, Receipt, Run, Tally, ignore, never
from rtprune.dataset import Output, PageSlice, Pending, Unit
from rtprune.settings import NO_MODEL, RunSettings

UNIT_PAGES = 64
CAPACITY = 2
GOAL = 200.0  # units a second: a thousand workers at 8 pages a second need 125


class SimulatedPool(Pool[UnitTask, Receipt]):
    """The pool with workers that only take their time, on a clock that leaps from one answer to the next.

    Args:
        workers: how many.
        unit_s: what a unit takes, in simulated seconds, on the mean.
    """

    def __init__(self, workers: int, unit_s: float, seed: int) -> None:
        self._now = 0.0
        super().__init__(object, (), Placement(workers, 1.0), capacity=CAPACITY)
        self._unit_s = unit_s
        self._dice = random.Random(seed)
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def now(self) -> float:
        """Simulated seconds."""
        return self._now

    def events(self, seconds: float) -> list[Event[UnitTask, Receipt]]:
        """What comes next."""
        if self._agenda:
            self._now, _, happen = heapq.heappop(self._agenda)
            happen()
        return super().events(0.0)

    def later(self, seconds: float, happen: Callable[[], None]) -> None:
        """Have something happen in simulated ``seconds``."""
        self._count += 1
        heapq.heappush(self._agenda, (self._now + seconds, self._count, happen))

    def unit_s(self) -> float:
        """What the next unit takes."""
        return self._unit_s * self._dice.lognormvariate(0.0, 0.3)

    def _launch(self) -> _Actor:
        return _Actor(self)

    def _kill(self, actor: Any) -> None:
        """Nothing runs."""


class _Actor:
    """What the pool calls of a Ray actor."""

    def __init__(self, pool: SimulatedPool) -> None:
        self.ready = _Method(lambda: (1.0, None), pool)
        self.pulse = _Method(lambda: (0.001, Pulse()), pool)
        self.work = _Method(self._work, pool)
        self._pool = pool

    def _work(self, assignment: Assignment) -> tuple[float, Receipt]:
        return self._pool.unit_s(), Receipt(Tally(assignment.unit.page_count))


class _Method:
    def __init__(self, answer: Callable[..., tuple[float, Any]], pool: SimulatedPool) -> None:
        self._answer, self._pool = answer, pool

    def options(self, **unused: object) -> _Method:
        return self

    def remote(self, *arguments: Any) -> _Ref:
        seconds, answer = self._answer(*arguments)
        ref = _Ref()
        self._pool.later(seconds, lambda: ref.promise.set_result(answer))
        return ref


class _Ref:
    def __init__(self) -> None:
        self.promise: Future[Any] = Future()

    def future(self) -> Future[Any]:
        return self.promise


def bench_driver(*, workers: int, units: int) -> dict[str, Any]:
    """Have ``workers`` simulated workers take ``units`` units; plain values ready for JSON.

    Returns:
        "units_per_s": of the driver's own processor time; "goal_per_s".
    """
    settings = RunSettings(model=NO_MODEL, unit_pages=UNIT_PAGES)
    run = Run("r-bench", "", "", settings, NO_MODEL, {}, 0, datetime.now(UTC))
    pending = Pending(np.arange(units, dtype=np.int64), np.full(units, UNIT_PAGES, np.int64))
    reader = UnitReader(run, Output("", {}), lambda: pending, _units, ignore, never)
    pool = SimulatedPool(workers, unit_s=UNIT_PAGES / 8, seed=workers)
    began = time.process_time()
    done = reader.read(pool)
    seconds = time.process_time() - began
    assert done.units == units
    return {"workers": workers, "units": units, "units_per_s": round(units / seconds, 1), "goal_per_s": GOAL}


def _units(numbers: Collection[int]) -> list[Unit]:
    return [
        Unit(f"{number:024x}", (PageSlice(f"{number:064x}", f"s3://corpus/{number}.pdf", 1, UNIT_PAGES),))
        for number in numbers
    ]


def report(found: dict[str, Any]) -> str:
    """The measurement in words."""
    return (
        f"{found['workers']:,} simulated workers, {found['units']:,} units: {found['units_per_s']:,.0f} units a second "
        f"of one core (goal: {found['goal_per_s']:.0f})"
    )
