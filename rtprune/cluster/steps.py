"""The steps of a run: prepare, discover, plan, read, publish.

Nothing is lost when any of them is killed: the plan and the units' markers in OUTPUT are the only memory, and every
step does what they lack.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rtprune.cluster.inspector import Batch, Inspector, batches, chunks, refused_row
from rtprune.cluster.job import (
    Done,
    Found,
    OnProgress,
    Planned,
    Progress,
    Run,
    RunSummary,
    ShouldStop,
    never,
    nobody,
)
from rtprune.cluster.placement import place_inspectors, place_readers
from rtprune.cluster.reader import Reader, Tally
from rtprune.cluster.rows import failed_unit
from rtprune.cluster.session import live_nodes, ray_session
from rtprune.dataset import (
    DocumentRow,
    Output,
    PlanLog,
    RunRow,
    WorkUnit,
    commit_unit,
    committed_units,
    new_run_id,
    publish,
    record_run,
)
from rtprune.dataset.schema import RunStatus
from rtprune.documents import SourceObject, list_objects
from rtprune.errors import RTPruneError, StoreError, UsageError
from rtprune.models import describe
from rtprune.settings import ReadSettings, RunSettings

if TYPE_CHECKING:
    from rtprune.cluster.pool import Outcome

logger = logging.getLogger(__name__)

#: Why an object could not be opened before, and yet may be now that somebody starts another run.
TRIED_AGAIN = ("unreachable", "unreadable", "timeout")
PLAN_OBJECTS = 10_000  # objects looked into before their plan is written: what a kill meanwhile can cost
INSPECT_TIMEOUT_S = 600.0
FAILURES_IN_A_ROW = 3

GIVEN_UP = {
    "worker-died": "the process reading this unit of pages died {attempts} times (out of memory, or a crash)",
    "timeout": "this unit of pages was not read within the time allowed, {attempts} times",
}


def prepare(source: str, output: str, settings: RunSettings) -> Run:
    """Settle what is to be done before anything is started. Raises ``UsageError``, ``ModelError``."""
    model = describe(settings.model)
    mode, task = settings.mode or model.default_mode, settings.task or model.default_task
    for what, value, known in (("mode", mode, model.modes), ("task", task, model.tasks)):
        if value not in known:
            raise UsageError(f"model {settings.model!r} has no {what} {value!r}", f"it has: {', '.join(known)}")
    resolved = settings.model_copy(update={"mode": mode, "task": task})
    label = model.name.rstrip("/").rsplit("/", 1)[-1]  # where a checkpoint lies does not change what it reads
    config = resolved.model_dump(mode="json", include=set(ReadSettings.model_fields))
    config |= {"model": label, "model_revision": model.revision}
    return Run(new_run_id(), source, output, resolved, label, config, model.parameters, datetime.now(UTC))


def discover(run: Run) -> Found:
    """List the source and hold it against what OUTPUT has; where OUTPUT lies in the source, it is no part of it.

    Raises ``UsageError``, ``StoreError``.
    """
    listed = tuple(list_objects(run.source))
    output = Output.open(run.output_uri, run.config)
    objects = tuple(found for found in listed if not found.uri.startswith(output.uri + "/"))
    log = PlanLog(output)
    committed = committed_units(output)
    return Found(
        output,
        len(objects),
        tuple(_to_open(run, log, objects)),
        tuple(unit for unit in log.units if unit.unit_id not in committed),
    )


def _to_open(run: Run, log: PlanLog, objects: Iterable[SourceObject]) -> Iterator[SourceObject]:
    """Objects that no plan covers yet, and those it could not open but that may be opened now."""
    reasons = TRIED_AGAIN if run.settings.password is None else (*TRIED_AGAIN, "encrypted")
    for found in objects:
        if not log.covers(found.uri, found.version) or log.failure(found.uri, found.version) in reasons:
            yield found


@contextmanager
def in_progress(run: Run, found: Found) -> Iterator[None]:
    """Ray for the length of the block, and the run's row in OUTPUT: "running" before, how it failed after."""
    record_run(found.output, _row(run, "running"))
    try:
        with ray_session(run.settings.ray_address):
            yield
    except BaseException as error:
        told = str(error) if isinstance(error, RTPruneError) else type(error).__name__
        status: RunStatus = "failed" if isinstance(error, Exception) else "stopped"
        record_run(found.output, _row(run, status, told))
        raise


def plan(run: Run, found: Found, *, on_progress: OnProgress = nobody, should_stop: ShouldStop = never) -> Planned:
    """Look into the new objects on Ray and append them to the plan; done again, it goes on where it was."""
    log = PlanLog(found.output)
    new = list(_to_open(run, log, found.new))
    documents = failed = 0
    stopped = False
    for chunk in chunks(new, PLAN_OBJECTS):
        rows: list[DocumentRow] = []
        for some in _inspect(run, chunk, should_stop):
            rows.extend(some)
            on_progress(Progress("inspect", documents + len(rows), len(new), failed))
        if stopped := len(rows) < len(chunk):
            break  # a plan never holds half a chunk, so that units do not depend on when a run was stopped
        log.append(rows, unit_pages=run.settings.unit_pages, run_id=run.run_id)
        documents += len(rows)
        failed += sum(row.status == "failed" for row in rows)
    committed = committed_units(found.output)
    units = tuple(unit for unit in log.units if unit.unit_id not in committed)
    return Planned(documents, failed, units, stopped)


def _inspect(run: Run, objects: Batch, should_stop: ShouldStop) -> Iterator[tuple[DocumentRow, ...]]:
    """Rows of ``objects``; a batch that kills its worker is looked into again object by object."""
    from rtprune.cluster.pool import Pool

    todo = list(batches(objects))
    while todo:
        pool: Pool[Batch, tuple[DocumentRow, ...]] = Pool(
            Inspector,
            (run.settings.password, run.settings.max_attempts),
            place_inspectors(live_nodes(), len(todo)),
            max_attempts=run.settings.max_attempts,
            unit_timeout_s=INSPECT_TIMEOUT_S,
            should_stop=should_stop,
        )
        again: list[Batch] = []
        for outcome in pool.run(todo):
            if outcome.result is not None:
                yield outcome.result
            elif isinstance(outcome.error, UsageError):
                raise outcome.error
            elif len(outcome.unit) > 1:
                again.extend((one,) for one in outcome.unit)
            else:
                kind = outcome.reason if outcome.reason != "raised" else type(outcome.error).__name__
                message = f"looking into this object failed {outcome.attempts} times: {kind}"
                yield (refused_row(outcome.unit[0], str(kind), message),)
        todo = again


def read(
    run: Run,
    output: Output,
    units: Sequence[WorkUnit],
    *,
    on_progress: OnProgress = nobody,
    should_stop: ShouldStop = never,
) -> Done:
    """Read those of ``units`` that are not committed yet on Ray; done again, it goes on where it was.

    A unit whose process dies or that takes too long, again and again, is given up: its pages get failed rows. That
    waits until another unit is read or the run ends, so that what fails every unit fails the run and no page.

    Raises:
        UsageError: the model cannot be loaded, or the store refuses.
        StoreError: documents could not be fetched, or rows not be committed; all that could be is done.
        RTPruneError: unit after unit fails: something is wrong that is no document's fault.
    """
    from rtprune.cluster.pool import Pool

    committed = committed_units(output)
    todo = [unit for unit in units if unit.unit_id not in committed]
    if not todo:
        return Done()
    placement = place_readers(live_nodes(), run.settings.workers, parameters=run.parameters)
    total = sum(unit.page_count for unit in todo)
    done = Done()

    def tell(at_work: Sequence[Tally] = ()) -> None:
        tally = sum(at_work, done.tally)
        on_progress(Progress("read", tally.pages, total, tally.failed, tally.tokens_before, tally.tokens_after))

    pool: Pool[WorkUnit, Tally] = Pool(
        Reader,
        (output, run.run_id, run.settings, run.label, placement),
        placement,
        max_attempts=run.settings.max_attempts,
        unit_timeout_s=run.settings.unit_timeout_s,
        on_pulse=tell,
        should_stop=should_stop,
    )
    tell()
    suspects: list[Outcome[WorkUnit, Tally]] = []  # units that failed since the last one that was read
    out_of_reach: StoreError | None = None
    for outcome in pool.run(todo):
        if outcome.result is not None:
            done = done.and_unit(outcome.result)
            done = _give_up(run, output, suspects, done)
            suspects.clear()
        elif isinstance(outcome.error, RTPruneError) and not isinstance(outcome.error, StoreError):
            raise outcome.error
        else:
            out_of_reach = outcome.error if isinstance(outcome.error, StoreError) else out_of_reach
            suspects.append(outcome)
            if len(suspects) == FAILURES_IN_A_ROW:
                raise _nobodys_fault(outcome)
    done = _give_up(run, output, suspects, done)
    tell()
    if out_of_reach is not None:
        raise out_of_reach
    return replace(done, left=len(todo) - done.units)


def _nobodys_fault(outcome: Outcome[WorkUnit, Tally]) -> RTPruneError:
    if isinstance(outcome.error, StoreError):
        return outcome.error
    return RTPruneError(
        f"{FAILURES_IN_A_ROW} units in a row could not be read; the last one: {_reason(outcome)[1]}",
        "this is no single document's fault; mend it and run again",
    )


def _reason(outcome: Outcome[WorkUnit, Tally]) -> tuple[str, str]:
    """Why a unit was not read: a short name, and in words."""
    if outcome.error is not None:
        return type(outcome.error).__name__, str(outcome.error) or repr(outcome.error)
    return str(outcome.reason), GIVEN_UP[str(outcome.reason)].format(attempts=outcome.attempts)


def _give_up(run: Run, output: Output, outcomes: Sequence[Outcome[WorkUnit, Tally]], done: Done) -> Done:
    """Commit failed rows for units that cannot be read, so that none of their pages is missing.

    What the store did not give is left for another run.
    """
    for outcome in outcomes:
        if isinstance(outcome.error, StoreError):
            continue
        kind, message = _reason(outcome)
        logger.warning("unit %s is given up: %s", outcome.unit.unit_id, message)
        rows = list(
            failed_unit(
                outcome.unit, kind, message, model=run.label, mode=run.settings.mode or "", attempt=outcome.attempts
            )
        )
        commit_unit(output, outcome.unit, rows, run.run_id)
        done = done.and_unit(Tally.of(rows))
    return done


def publish_run(run: Run, found: Found, planned: Planned, done: Done) -> RunSummary:
    """List what was committed in the run's manifest, clear what was not, and write the run's row.

    Writes nothing where nothing was done and all is published.
    """
    published = publish(found.output, run.run_id)
    worked = not found.nothing_to_do
    stopped = done.left > 0 or planned.stopped
    if worked:
        row = _row(run, "stopped" if stopped else "finished")
        record_run(
            found.output,
            replace(
                row,
                documents=planned.documents,
                documents_failed=planned.documents_failed,
                units=done.units,
                pages=done.tally.pages,
                pages_failed=done.tally.failed,
                visual_tokens_before=done.tally.tokens_before,
                visual_tokens_after=done.tally.tokens_after,
            ),
        )
    return RunSummary(
        run_id=run.run_id,
        output=found.output.uri,
        status="stopped" if stopped else "finished" if worked or published.changed else "nothing to do",
        objects=found.objects,
        documents=planned.documents,
        documents_failed=planned.documents_failed,
        units=done.units,
        units_left=done.left,
        tally=done.tally,
        seconds=(datetime.now(UTC) - run.started_at).total_seconds(),
    )


def _row(run: Run, status: RunStatus, error_message: str | None = None) -> RunRow:
    return RunRow(
        run_id=run.run_id,
        started_at=run.started_at,
        ended_at=None if status == "running" else datetime.now(UTC),
        status=status,
        source=run.source,
        settings=run.settings.model_dump(mode="json", exclude={"password"}),
        error_message=error_message,
    )
