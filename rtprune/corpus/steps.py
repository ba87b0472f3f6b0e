"""The steps of a run: prepare, discover, plan, read, publish.

Nothing is lost when any of them is killed: the plan and the units' markers in OUTPUT are the only memory, and every
step does what they lack.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice

from rtprune.corpus.inspector import Batch, Inspector, batches, refused_row
from rtprune.corpus.ray_cluster import live_nodes, place_inspectors, ray_session
from rtprune.corpus.values import (
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
from rtprune.dataset import (
    Claims,
    DocumentRow,
    Output,
    PlanLog,
    RunRow,
    bury_dead_runs,
    committed_units,
    heartbeat,
    new_run_id,
    pending,
    publish,
    record_run,
)
from rtprune.dataset.schema import RunStatus
from rtprune.documents import ObjectList, SourceObject, list_objects
from rtprune.errors import Reason, RTPruneError, UsageError, unexpected
from rtprune.settings import NO_MODEL, ReadSettings, RunSettings

#: Why an object could not be opened before, and yet may be now that somebody starts another run.
TRIED_AGAIN = (Reason.UNREACHABLE, Reason.UNREADABLE, Reason.TIMEOUT)
PLAN_OBJECTS = 10_000  # objects looked into before their plan is written: what a kill meanwhile can cost
INSPECT_TIMEOUT_S = 600.0
OTHERS_EVERY_S = 2.0  # how often a plan is looked for that another run is making


def prepare(source: str, output: str, settings: RunSettings) -> Run:
    """Settle what is to be done before anything is started. Raises ``UsageError``, ``ModelError``."""
    started_at = datetime.now(UTC)
    config = settings.model_dump(mode="json", include=set(ReadSettings.model_fields))
    if settings.model == NO_MODEL:
        return Run(new_run_id(), source, output, settings, NO_MODEL, config, 0, started_at)
    from rtprune.models import describe

    model = describe(settings.model)
    mode, task = settings.mode or model.default_mode, settings.task or model.default_task
    for what, value, known in (("mode", mode, model.modes), ("task", task, model.tasks)):
        if value not in known:
            raise UsageError(f"model {settings.model!r} has no {what} {value!r}", f"it has: {', '.join(known)}")
    resolved = settings.model_copy(update={"mode": mode, "task": task})
    label = model.name.rstrip("/").rsplit("/", 1)[-1]  # where a checkpoint lies does not change what it reads
    config |= {"model": label, "model_revision": model.revision, "mode": mode, "task": task}
    return Run(new_run_id(), source, output, resolved, label, config, model.parameters, started_at)


def discover(run: Run) -> Found:
    """List the source and hold it against what OUTPUT has; where OUTPUT lies in the source, it is no part of it.

    Raises ``UsageError``, ``StoreError``.
    """
    listed = list_objects(run.source)
    output = Output.open(run.output_uri, run.config)
    log, count = PlanLog(output), 0

    def outside() -> Iterator[SourceObject]:
        nonlocal count
        for found in listed:
            if not found.uri.startswith(output.uri + "/"):
                count += 1
                yield found

    new = ObjectList(_to_open(run, log, outside()))
    return Found(output, count, new, pending(output, committed_units(output)))


def _to_open(run: Run, log: PlanLog, objects: Iterable[SourceObject]) -> Iterator[SourceObject]:
    """Objects that no plan covers yet, and those it could not open but that may be opened now."""
    reasons = TRIED_AGAIN if run.settings.password is None else (*TRIED_AGAIN, Reason.ENCRYPTED)
    for found in objects:
        if not log.covers(found.uri, found.version) or log.failure(found.uri, found.version) in reasons:
            yield found


@contextmanager
def in_progress(run: Run, found: Found) -> Iterator[None]:
    """Ray for the length of the block, and the run's row in OUTPUT: "running" before, how it failed after."""
    with heartbeat(found.output, run.run_id):  # outlasts the row's last word: without it the run died
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
    """Look into the new objects on Ray and append them to the plan; done again, it goes on where it was.

    One run at a time does so: others wait for its plans, and go on where it ends or dies.
    """
    log = PlanLog(found.output)
    claims = Claims(found.output, run.run_id)
    documents = failed = 0
    stopped, unused = False, ""
    new = _to_open(run, log, found.new)
    while not stopped and (chunk := tuple(islice(new, PLAN_OBJECTS))):
        if stopped := not _may_plan(log, claims, should_stop):
            break
        chunk = tuple(_to_open(run, log, chunk))  # without what others have planned meanwhile
        if not chunk:
            unused = _planning(log.count + 1)
            continue
        rows: list[DocumentRow] = []
        for some in _inspect(run, chunk, should_stop):
            rows.extend(some)
            on_progress(Progress("inspect", documents + len(rows), len(found.new), failed))
        if stopped := len(rows) < len(chunk):
            break  # a plan never holds half a chunk, so that units do not depend on when a run was stopped
        log.append(rows, unit_pages=run.settings.unit_pages, run_id=run.run_id)
        documents += len(rows)
        failed += sum(row.status == "failed" for row in rows)
    if len(found.new):
        claims.sweep(lambda what: _planning(0) <= what <= _planning(log.count) or what == unused)
    return Planned(documents, failed, pending(found.output, committed_units(found.output)), stopped)


def _may_plan(log: PlanLog, claims: Claims, should_stop: ShouldStop) -> bool:
    """Wait until no other live run makes the next plan; false when the run is to stop before."""
    while not should_stop():
        number = log.count + 1
        if claims.take(_planning(number)):
            log.reload()
            if log.count + 1 == number:
                return True
        else:
            time.sleep(OTHERS_EVERY_S)
            log.reload()
    return False


def _planning(number: int) -> str:
    """The claim on making plan ``number``; sorts after all units and by number."""
    return f"plan-{number:06d}"


def _inspect(run: Run, objects: Batch, should_stop: ShouldStop) -> Iterator[tuple[DocumentRow, ...]]:
    """Rows of ``objects``; a batch that kills its worker is looked into again object by object."""
    from rtprune.corpus.pool import Pool

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
                reason = Reason.UNEXPECTED if outcome.reason in (None, "raised") else Reason(str(outcome.reason))
                why = unexpected(outcome.error) if outcome.error else reason.meaning
                message = f"looking into this object failed {outcome.attempts} times: {why}"
                yield (refused_row(outcome.unit[0], reason, message),)
        todo = again


def read(run: Run, output: Output, *, on_progress: OnProgress = nobody, should_stop: ShouldStop = never) -> Done:
    """Read the planned units that are not committed yet on Ray; done again, it goes on where it was.

    Units that another live run is at are left to it, and taken over should it die. A unit whose process dies or that
    takes too long, again and again, is read page by page; only pages that fail alone get failed rows. That waits until
    another unit is read or the run ends, so that what fails every unit fails the run and no page.

    Raises:
        UsageError: the model cannot be loaded, or the store refuses.
        StoreError: documents could not be fetched, or rows not be committed; all that could be is done.
        RTPruneError: unit after unit fails: something is wrong that is no document's fault.
    """
    from rtprune.corpus.reading import Reading

    return Reading(run, output, on_progress, should_stop).run()


def publish_run(run: Run, found: Found, planned: Planned, done: Done) -> RunSummary:
    """List what was committed in the run's manifest, clear what was not, and write the run's row.

    Writes nothing where nothing was done and all is published.
    """
    published = publish(found.output, run.run_id)
    bury_dead_runs(found.output, Claims(found.output, run.run_id))
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
        seconds=time.monotonic() - run.began,
    )


def _row(run: Run, status: RunStatus, message: str | None = None) -> RunRow:
    return RunRow(
        run_id=run.run_id,
        started_at=run.started_at,
        ended_at=None if status == "running" else datetime.now(UTC),
        status=status,
        source=run.source,
        settings=run.settings.model_dump(mode="json", exclude={"password"}),
        message=message,
    )
