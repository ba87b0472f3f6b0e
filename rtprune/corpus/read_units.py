"""The loop between queue and pool: units to workers, what they give back to the dataset, and the run's progress."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from rtprune.corpus.metrics import DriverMetrics, PageMetrics
from rtprune.corpus.pool import Event, Finished, Lost, Pulsed, Raised, Worker
from rtprune.corpus.rows import failed_row
from rtprune.corpus.unit_order import UnitOrder
from rtprune.corpus.unit_queue import Ended, Failure, Task, UnitQueue
from rtprune.corpus.values import (
    Assignment,
    Done,
    LogRecord,
    LossReason,
    OnProgress,
    Progress,
    Receipt,
    Run,
    ShouldStop,
    Tally,
)
from rtprune.dataset import Output, PageRow, Pending, Unit, commit_unit
from rtprune.engine.fidelity import below_floor
from rtprune.errors import StoreError

logger = logging.getLogger(__name__)

TICK_S = 1.0
LOOK_AGAIN_S = 30.0  # how often the dataset is asked what other runs have done

UnitTask = Task[Unit]


class Workers(Protocol):
    """What the loop needs of a `rtprune.corpus.pool.Pool`."""

    def start(self, waiting: int) -> None:
        """Start workers for tasks that wait."""

    def with_room(self, waiting: int) -> Worker[UnitTask] | None:
        """A worker that can take a task."""

    def send(self, worker: Worker[UnitTask], task: UnitTask, *arguments: Any, alone: bool = False) -> None:
        """Give it one."""

    def events(self, seconds: float) -> Sequence[Event[UnitTask, Receipt]]:
        """What has happened."""

    def ask_pulses(self) -> None:
        """Ask workers how they get on."""

    def retire(self, worker: Worker[UnitTask]) -> None:
        """End a worker when it has nothing left."""

    def release(self) -> None:
        """Have workers give back what they have not begun."""


class Account:
    """Pages and units of a run, counted as they are done."""

    def __init__(self, units: int, pages: int, on_progress: OnProgress) -> None:
        self._units, self._pages = units, pages
        self._on_progress = on_progress
        self._at_work: dict[tuple[str, int | None], Tally] = {}
        self._at_work_sum = Tally()
        self._metrics = DriverMetrics()
        self.done = Done()

    def begin(self, assignment: Assignment) -> None:
        """A worker has it."""
        self._at_work[assignment.unit.unit_id, assignment.page] = Tally()

    def progress(self, key: tuple[str, int | None], tally: Tally) -> None:
        """What is done of it by now."""
        if key in self._at_work:
            self._at_work_sum += tally - self._at_work[key]
            self._at_work[key] = tally

    def end(self, task: UnitTask) -> None:
        """No worker has it any more."""
        self._at_work_sum -= self._at_work.pop((task.unit.unit_id, task.part), Tally())

    def committed(self, tally: Tally, *, doubled: bool = False) -> None:
        """One more unit is in the dataset."""
        self.done = replace(self.done, doubled=self.done.doubled + doubled)
        if doubled:
            self.elsewhere(1, tally.pages)
        else:
            self.done = self.done.and_unit(tally)
            self._metrics.unit_committed()

    def elsewhere(self, units: int, pages: int) -> None:
        """Other runs have committed so much."""
        self.done = replace(self.done, elsewhere=self.done.elsewhere + units)
        self._pages -= pages

    def worker_lost(self, reason: LossReason) -> None:
        """A worker is gone."""
        self._metrics.worker_lost(reason)

    def report(self) -> None:
        """Say how far the run is."""
        tally = self.done.tally + self._at_work_sum
        self._metrics.queue(self.left - len(self._at_work), len(self._at_work))
        self._on_progress(
            Progress("read", tally.pages, self._pages, tally.failed, tally.tokens_before, tally.tokens_after)
        )

    def close(self) -> Done:
        """The last word."""
        self.report()
        self._metrics.queue(0, 0)
        return replace(self.done, left=self.left)

    @property
    def left(self) -> int:
        """Units that are not committed yet."""
        return self._units - self.done.units - self.done.elsewhere


class UnitReader:
    """Reads what is pending; see `rtprune.corpus.run.read`.

    Args:
        pending: asks the dataset what is planned and not done.
        units: gives the units of some numbers.
    """

    def __init__(
        self,
        run: Run,
        output: Output,
        pending: Callable[[], Pending],
        units: Callable[[Collection[int]], list[Unit]],
        on_progress: OnProgress,
        should_stop: ShouldStop,
    ) -> None:
        self._run, self._output = run, output
        self._pending, self._looked = pending, time.monotonic()
        first = pending()
        self._order = UnitOrder(first.units, first.pages, units, run.run_id)
        self._queue: UnitQueue[Unit, Receipt] = UnitQueue(
            self._order, lambda unit: unit.page_count, max_attempts=run.settings.max_attempts
        )
        self._account = Account(len(first.units), int(np.sum(first.pages)), on_progress)
        self._should_stop = should_stop
        self._metrics = PageMetrics()
        self._postponed: StoreError | None = None
        self._prune = True

    @property
    def nothing_to_do(self) -> bool:
        """Whether nothing is pending."""
        return not self._order.left

    def worker_lost(self, reason: LossReason) -> None:
        """To be called whenever a worker is lost."""
        self._account.worker_lost(reason)

    def read(self, workers: Workers) -> Done:
        """Read it. Raises as `rtprune.corpus.run.read`."""
        stopping = False
        self._account.report()
        while not self._queue.finished:
            if not stopping and self._should_stop():
                stopping = True
                self._queue.stop()
                workers.release()
            self._dispatch(workers)
            for event in workers.events(TICK_S):
                self._take(event, workers)
            self._settle_ended()
            workers.ask_pulses()
            self._account.report()
        self._settle_ended()  # what was given up because nothing else is left
        done = self._account.close()
        if self._postponed is not None:
            raise self._postponed
        return done

    def _dispatch(self, workers: Workers) -> None:
        waiting = self._order.left + self._queue.waiting
        workers.start(waiting)
        while (worker := workers.with_room(waiting)) and (task := self._queue.take(idle=not worker.tasks)):
            assignment = Assignment(task.unit, task.part, task.charged + 1, self._prune)
            self._account.begin(assignment)
            workers.send(worker, task, assignment, alone=task.alone)
            waiting -= 1

    def _take(self, event: Event[UnitTask, Receipt], workers: Workers) -> None:
        match event:
            case Finished(worker, task, receipt):
                _log(worker, receipt.logs)
                self._account.end(task)
                if receipt.outcome == "returned":
                    self._queue.returned(task)
                else:
                    self._queue.done(task, receipt, proves=receipt.outcome != "elsewhere")
                if receipt.worn:
                    workers.retire(worker)
            case Raised(_, task, error, alone):
                self._account.end(task)
                self._queue.raised(task, error, alone=alone)
            case Lost(worker, tasks, reason):
                logger.warning("%s is lost (%s) with %d units at work", worker.name, reason, len(tasks))
                for task in tasks:
                    self._account.end(task)
                self._queue.lost(tasks, reason)
            case Pulsed(worker, pulse):
                _log(worker, pulse.logs)
                for key, tally in pulse.tallies:
                    self._account.progress(key, tally)

    def _settle_ended(self) -> None:
        while self._queue.divided:
            _warn_of_division(*self._queue.divided.popleft())
        while self._queue.ended:
            self._settle(self._queue.ended.popleft())

    def _settle(self, ended: Ended[Unit, Receipt]) -> None:
        """A unit has left the queue."""
        if ended.postponed is not None:
            self._postponed = ended.postponed
        elif ended.result is None:
            self._commit_parts(ended.unit, ended.parts)
        elif ended.result.outcome == "elsewhere":
            self._account.elsewhere(1, ended.unit.page_count)
            self._avoid_others()
        else:
            self._committed(ended.result.tally, doubled=ended.result.outcome == "doubled")

    def _commit_parts(self, unit: Unit, parts: Sequence[Receipt | Failure]) -> None:
        rows: list[PageRow] = []
        for page, part in enumerate(parts):
            rows.extend(part.rows if isinstance(part, Receipt) else [self._failed(unit, page, part)])
        ours = commit_unit(self._output, unit, rows, self._run.run_id)
        self._committed(Tally.of(rows), doubled=not ours)

    def _failed(self, unit: Unit, page: int, failure: Failure) -> PageRow:
        piece = unit.page_slice(page)
        row = failed_row(
            piece,
            piece.first_page,
            failure.reason,
            failure.message,
            model=self._run.label,
            mode=self._run.settings.mode or "",
            attempt=failure.attempts,
        )
        self._metrics.record([row])
        return row

    def _committed(self, tally: Tally, *, doubled: bool) -> None:
        self._account.committed(tally, doubled=doubled)
        if doubled:
            self._avoid_others()
        total, floor = self._account.done.tally, self._run.settings.audit_floor
        if self._prune and floor is not None and below_floor(total.audited, total.distance, floor):
            self._prune = False
            logger.warning(
                "PRUNING IS OFF from here on: %d audited pages keep %.1f %% of their unpruned text, less than %.1f %%",
                total.audited,
                100 * (1 - total.distance / total.audited),
                100 * floor,
            )

    def _avoid_others(self) -> None:
        """Another run is at work where this one is: go on elsewhere."""
        if time.monotonic() - self._looked > LOOK_AGAIN_S:
            self._account.elsewhere(*self._order.keep(self._pending().units))
            self._looked = time.monotonic()
        self._order.leap()


def _warn_of_division(unit: Unit, failure: Failure) -> None:
    if unit.page_count > 1:
        logger.warning("unit %s is read page by page: %s", unit.unit_id, failure.message)


def _log(worker: Worker[UnitTask], records: Sequence[LogRecord]) -> None:
    """What a worker logged appears where the driver's own records do."""
    for name, level, message in records:
        logging.getLogger(name).log(level, "%s: %s", worker.name, message)
