"""The step that looks into new objects: batches of them to inspectors on Ray, and what they are to the plan."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence

from rtprune.corpus.inspector import BATCH_OBJECTS, Batch, Inspector, batches, refused_row
from rtprune.corpus.pool import Finished, Lost, Pool, Raised
from rtprune.corpus.ray_cluster import live_nodes, place_inspectors
from rtprune.corpus.unit_queue import Ended, Failure, Task, UnitQueue
from rtprune.corpus.values import OnProgress, Planned, Progress, Run, ShouldStop
from rtprune.dataset import DocumentRow, FailureRow, Snapshot, first_failures
from rtprune.documents import SourceObject
from rtprune.errors import Reason

TIMEOUT_S = 600.0
TICK_S = 1.0
PLAN_EVERY_S = 20.0  # what a kill can cost
PLAN_OBJECTS = 10_000  # in one file of the plan, at most
IN_FLIGHT = 2  # batches that an inspector has at a time: one is fetched while another is opened

Rows = tuple[DocumentRow, ...]


def look_into(run: Run, snapshot: Snapshot, on_progress: OnProgress, should_stop: ShouldStop) -> Planned:
    """Look into the objects that are new to the snapshot, and append them to the plan; see `rtprune.corpus.run.plan`.

    A batch that kills its inspector is looked into again object by object.
    """
    if not snapshot.new_count:
        return Planned()
    pool: Pool[Task[Batch], Rows] = Pool(
        Inspector,
        (run.settings.password, run.settings.max_attempts),
        place_inspectors(live_nodes(), -(-snapshot.new_count // BATCH_OBJECTS)),
        capacity=IN_FLIGHT,
        task_timeout_s=TIMEOUT_S,
    )
    try:
        return _Looking(run, snapshot, on_progress, should_stop).look(pool)
    finally:
        pool.close()


class _Looking:
    def __init__(self, run: Run, snapshot: Snapshot, on_progress: OnProgress, should_stop: ShouldStop) -> None:
        self._run = run
        self._snapshot = snapshot
        self._on_progress = on_progress
        self._should_stop = should_stop
        self._queue: UnitQueue[Batch, Rows] = UnitQueue(
            batches(self._objects()), len, max_attempts=run.settings.max_attempts, failures_in_a_row=None
        )
        self._left = snapshot.new_count
        self._rows: list[DocumentRow] = []
        self._planned_at = time.monotonic()
        self._documents = self._failed = self._not_documents = 0
        self._failures: tuple[FailureRow, ...] = ()

    def look(self, pool: Pool[Task[Batch], Rows]) -> Planned:
        stopped = False
        while not self._queue.finished:
            if not stopped and self._should_stop():
                stopped = True
                self._queue.stop()
            self._dispatch(pool)
            for event in pool.events(TICK_S):
                match event:
                    case Finished(_, task, rows):
                        self._queue.done(task, rows)
                    case Raised(_, task, error, alone):
                        self._queue.raised(task, error, alone=alone)
                    case Lost(_, tasks, reason):
                        self._queue.lost(tasks, reason)
            self._take_ended()
            if len(self._rows) >= PLAN_OBJECTS or time.monotonic() - self._planned_at > PLAN_EVERY_S:
                self._plan()
            done, failed = self._documents + len(self._rows), self._failed + _failures(self._rows)
            self._on_progress(Progress("inspect", done, self._snapshot.new_count, failed))
        self._take_ended()
        self._plan()
        stopped = stopped and self._left > 0
        return Planned(self._documents, self._failed, stopped, self._not_documents, self._failures)

    def _objects(self) -> Iterator[SourceObject]:
        """Objects that are new, beginning at a place of this run's own, without what others have planned meanwhile."""
        start = random.Random(self._run.run_id).randrange(self._snapshot.new_count)
        for some in self._snapshot.new_objects(start):
            for uri, size, version in self._snapshot.unplanned(some):
                yield SourceObject(uri, size, version)
            self._left -= len(some)

    def _dispatch(self, pool: Pool[Task[Batch], Rows]) -> None:
        waiting = -(-self._left // BATCH_OBJECTS) + self._queue.waiting + 1
        pool.start(waiting)
        while (worker := pool.with_room(waiting)) and (task := self._queue.take(idle=not worker.tasks)):
            batch = task.unit if task.part is None else task.unit[task.part : task.part + 1]
            pool.send(worker, task, batch, task.charged + 1, alone=task.alone)

    def _take_ended(self) -> None:
        while self._queue.ended:
            self._rows.extend(_rows_of(self._queue.ended.popleft()))

    def _plan(self) -> None:
        self._planned_at = time.monotonic()
        while some := self._rows[:PLAN_OBJECTS]:
            del self._rows[:PLAN_OBJECTS]
            self._snapshot.append(some, unit_pages=self._run.settings.unit_pages, run_id=self._run.run_id)
            self._documents += len(some)
            self._failed += _failures(some)
            self._not_documents += sum(row.reason == Reason.NOT_A_DOCUMENT for row in some)
            failures = [FailureRow.of(row) for row in some if row.status == "failed"]
            self._failures = first_failures((*self._failures, *failures))


def _rows_of(ended: Ended[Batch, Rows]) -> Iterator[DocumentRow]:
    if ended.result is not None:
        yield from ended.result
    for each, part in zip(ended.unit, ended.parts, strict=False):
        if isinstance(part, Failure):
            yield refused_row(each, part.reason, part.message)
        else:
            yield from part


def _failures(rows: Sequence[DocumentRow]) -> int:
    return sum(row.status == "failed" for row in rows)
