"""The step that reads: units to workers, outcomes to rows, and for what cannot be read the reason."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rtprune.corpus.assignment import Assignment, Receipt, Tally
from rtprune.corpus.metrics import DriverMetrics, PageMetrics
from rtprune.corpus.ray_cluster import Placement, live_nodes, place_workers
from rtprune.corpus.rows import failed_row
from rtprune.corpus.values import Done, OnProgress, Progress, Run, ShouldStop
from rtprune.corpus.worker import Worker
from rtprune.corpus.worklist import Worklist
from rtprune.dataset import (
    Claims,
    Output,
    PageRow,
    Unit,
    bury_dead_runs,
    commit_unit,
    committed_units,
    pending,
    pending_units,
)
from rtprune.engine.fidelity import below_floor
from rtprune.errors import Reason, RTPruneError, StoreError, unexpected
from rtprune.settings import NO_MODEL

if TYPE_CHECKING:
    from rtprune.corpus.pool import Outcome, Pool

logger = logging.getLogger(__name__)

FAILURES_IN_A_ROW = 3

GIVEN_UP = {
    "worker-died": "the process reading this died {attempts} times (out of memory, or a crash)",
    "timeout": "this was not read within the time allowed, {attempts} times",
}


class Reading:
    """Reads the units of ``output`` that are not committed yet; see ``rtprune.corpus.steps.read``.

    Args:
        reader: workers of this kind instead.
    """

    def __init__(
        self,
        run: Run,
        output: Output,
        on_progress: OnProgress,
        should_stop: ShouldStop,
        reader: type[Worker] | None = None,
    ) -> None:
        self._reader = reader or Worker
        self._run = run
        self._output = output
        self._on_progress = on_progress
        self._should_stop = should_stop
        committed = committed_units(output)
        self._total = pending(output, committed)
        self._claims = Claims(output, run.run_id)
        self._work = Worklist(output, pending_units(output, committed), self._claims)
        self._metrics = DriverMetrics()
        self._page_metrics = PageMetrics()
        self._done = Done()
        self._read_any = False
        self._suspects: list[Outcome[Assignment, Receipt]] = []  # units that failed since the last success
        self._apart: dict[str, dict[int, PageRow]] = {}  # rows of units that are read page by page
        self._lost_in_a_row = 0
        self._out_of_reach: StoreError | None = None

    def run(self) -> Done:
        """Read them."""
        if not self._total.units:
            return Done()
        placement = self._placement()
        self._claims.dead_runs()  # those on other machines stand still from here on
        self._tell()
        for outcome in self._pool(placement).run(self._work.assignments(self._isolate)):
            self._work.settle()
            if isinstance(outcome.error, RTPruneError) and not isinstance(outcome.error, StoreError):
                raise outcome.error
            if outcome.unit.page is None:
                self._take_unit(outcome)
            else:
                self._take_page(outcome)
        self._tell()
        self._metrics.queue(0, 0)
        self._claims.sweep(committed_units(self._output).__contains__)
        bury_dead_runs(self._output, self._claims)
        if self._out_of_reach is not None:
            raise self._out_of_reach
        left = self._total.units - self._done.units - self._work.elsewhere.units
        return replace(self._done, left=left)

    def _placement(self) -> Placement:
        run = self._run
        return place_workers(
            live_nodes(), run.settings.workers, parameters=run.parameters, reading=run.settings.model != NO_MODEL
        )

    def _pool(self, placement: Placement) -> Pool[Assignment, Receipt]:
        from rtprune.corpus.pool import Pool

        run, settings = self._run, self._run.settings
        return Pool(
            self._reader,
            (self._output, run.run_id, settings, run.label, placement),
            placement,
            max_attempts=settings.max_attempts,
            unit_timeout_s=settings.unit_timeout_s,
            on_pulse=self._tell,
            on_loss=self._metrics.worker_lost,
            workers=lambda: self._placement().workers,
            worn=lambda receipt: receipt.worn,
            should_stop=self._should_stop,
        )

    def _tell(self, at_work: Sequence[Tally] = ()) -> None:
        tally = sum(at_work, self._done.tally)
        total = self._total.pages - self._work.elsewhere.pages
        self._metrics.queue(self._total.units - self._done.units - len(at_work), len(at_work))
        self._on_progress(Progress("read", tally.pages, total, tally.failed, tally.tokens_before, tally.tokens_after))

    def _take_unit(self, outcome: Outcome[Assignment, Receipt]) -> None:
        if outcome.result is not None:
            self._read_any, self._lost_in_a_row = True, 0
            self._add(outcome.result.tally)
            self._isolate()
        elif isinstance(outcome.error, StoreError):
            self._out_of_reach = outcome.error
            self._suspect(outcome)
        else:
            self._suspect(outcome)

    def _suspect(self, outcome: Outcome[Assignment, Receipt]) -> None:
        self._suspects.append(outcome)
        if len(self._suspects) < FAILURES_IN_A_ROW:
            return
        if isinstance(outcome.error, StoreError):
            raise outcome.error
        raise RTPruneError(
            f"{FAILURES_IN_A_ROW} units in a row could not be read; the last one: {_reason(outcome)[1]}",
            "this is no single document's fault; mend it and run again",
        )

    def _isolate(self) -> bool:
        """Have units that failed read page by page; that waits until something tells that it was their own fault."""
        units = [outcome for outcome in self._suspects if not isinstance(outcome.error, StoreError)]
        self._suspects.clear()
        for outcome in units:
            unit = outcome.unit.unit
            self._apart[unit.unit_id] = {}
            if unit.page_count == 1:
                self._lost(unit, 0, outcome)
                continue
            logger.warning("unit %s is read page by page: %s", unit.unit_id, _reason(outcome)[1])
            self._work.isolate(unit)
        return bool(units)

    def _take_page(self, outcome: Outcome[Assignment, Receipt]) -> None:
        """A page of a unit that is read page by page; with the last one the unit is committed."""
        unit, page = outcome.unit.unit, outcome.unit.page or 0
        if isinstance(outcome.error, StoreError):
            self._out_of_reach = outcome.error
            self._work.drop(unit)
            self._apart.pop(unit.unit_id, None)
        if unit.unit_id not in self._apart:
            return
        if outcome.result is None:
            self._lost(unit, page, outcome)
            return
        self._read_any, self._lost_in_a_row = True, 0
        (self._apart[unit.unit_id][page],) = outcome.result.rows
        self._commit_apart(unit)

    def _lost(self, unit: Unit, page: int, outcome: Outcome[Assignment, Receipt]) -> None:
        """A page that could not be read even alone."""
        self._lost_in_a_row += 1
        self._apart[unit.unit_id][page] = self._failed(unit, page, outcome)
        if self._lost_in_a_row >= FAILURES_IN_A_ROW:
            self._work.probe = True  # are these pages bad, or is it everything?
            if self._work.all_out and not self._read_any:
                for rest in self._work.drop(unit):  # none was ever read: each further try costs a worker
                    self._apart[unit.unit_id][rest.page or 0] = self._failed(unit, rest.page or 0, outcome)
        self._commit_apart(unit)

    def _commit_apart(self, unit: Unit) -> None:
        rows = self._apart[unit.unit_id]
        if len(rows) == unit.page_count:
            del self._apart[unit.unit_id]
            in_order = [rows[index] for index in range(unit.page_count)]
            commit_unit(self._output, unit, in_order, self._run.run_id)
            self._add(Tally.of(in_order))

    def _failed(self, unit: Unit, page: int, outcome: Outcome[Assignment, Receipt]) -> PageRow:
        reason, message = _reason(outcome)
        piece = unit.page_slice(page)
        mode = self._run.settings.mode or ""
        row = failed_row(
            piece, piece.first_page, reason, message, model=self._run.label, mode=mode, attempt=outcome.attempts
        )
        self._page_metrics.record([row])
        return row

    def _add(self, tally: Tally) -> None:
        """One more unit is committed."""
        self._done = self._done.and_unit(tally)
        self._metrics.unit_committed()
        total, floor = self._done.tally, self._run.settings.audit_floor
        if self._work.prune and floor is not None and below_floor(total.audited, total.distance, floor):
            self._work.prune = False
            logger.warning(
                "PRUNING IS OFF from here on: %d audited pages keep %.1f %% of their unpruned text, less than %.1f %%",
                total.audited,
                100 * (1 - total.distance / total.audited),
                100 * floor,
            )


def _reason(outcome: Outcome[Assignment, Receipt]) -> tuple[Reason, str]:
    """Why something was not read: a short name, and in words."""
    if outcome.error is not None:
        return Reason.UNEXPECTED, unexpected(outcome.error)
    return Reason(str(outcome.reason)), GIVEN_UP[str(outcome.reason)].format(attempts=outcome.attempts)
