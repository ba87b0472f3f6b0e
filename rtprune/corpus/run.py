"""A run: discover, plan, read, publish. The one driver behind the command line, a Ray job and the Prefect flow.

Nothing is lost when any of the steps is killed: the plan and the units' files in OUTPUT are the only memory, and every
step does what they lack.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, TypeVar

from rtprune.corpus.failures import too_many_failed
from rtprune.corpus.ray_cluster import Placement, live_nodes, place_workers, ray_session
from rtprune.corpus.values import (
    Discovered,
    Done,
    OnProgress,
    Planned,
    Run,
    RunSummary,
    ShouldStop,
    ignore,
    never,
)
from rtprune.corpus.worker import Worker
from rtprune.dataset import Output, RunRow, Snapshot, done_units, first_failures, new_run_id, record_run, sweep
from rtprune.dataset.runs import SEEN_EVERY_S
from rtprune.dataset.schema import RunStatus
from rtprune.documents import list_objects
from rtprune.errors import Reason, RTPruneError, UsageError
from rtprune.settings import NO_MODEL, SLOTS, ReadSettings, RunSettings, check_variables

LEAST_IN_FLIGHT, MOST_IN_FLIGHT = 2, 16  # units that a worker has at a time

Step = TypeVar("Step", bound=Callable[..., Any])


class Wrap(Protocol):
    """Makes something else of a step that is called the same way, such as a task of Prefect."""

    def __call__(self, step: Step, /) -> Step:
        """The step, wrapped."""


def bare(step: Step) -> Step:
    """The step as it is."""
    return step


def run_corpus(
    source: str,
    output: str,
    settings: RunSettings,
    *,
    on_progress: OnProgress = ignore,
    should_stop: ShouldStop = never,
    wrap: Wrap = bare,
) -> RunSummary:
    """Read every page of ``source`` into the dataset at ``output``, or what is missing of it.

    Args:
        source: local file, folder or glob, ``s3://`` prefix or glob, or a text file listing such.
        output: local folder or ``s3://`` prefix.
        on_progress: called after every unit and about once a second.
        should_stop: once it says so, units at work are finished, the rest is left for the next run.
        wrap: what to make of each of the steps `discover`, `plan`, `read` and `publish`.

    Raises:
        UsageError: the model, the source, the output or the cluster cannot be used; nothing was read.
        StoreError: the store failed; what was committed before stays, run again for the rest.
        RTPruneError: unit after unit fails: something is wrong that is no document's fault.
    """
    run = prepare(source, output, settings)
    discovered = wrap(discover)(run)
    with discovered.snapshot:
        if discovered.nothing_to_do:
            return wrap(publish)(run, discovered, Planned(), Done())
        with recorded(run, discovered.output):
            with last_seen(run, discovered.output), ray_session(run.settings.ray_address):
                planned = wrap(plan)(run, discovered, on_progress, should_stop)
                done = wrap(read)(run, discovered, on_progress, should_stop)
            return wrap(publish)(run, discovered, planned, done)


def prepare(source: str, output: str, settings: RunSettings) -> Run:
    """Settle what is to be done before anything is started. Raises ``UsageError``, ``ModelError``."""
    check_variables()
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


def discover(run: Run) -> Discovered:
    """List the source and hold it against what OUTPUT has; where OUTPUT lies in the source, it is no part of it.

    Raises ``UsageError``, ``StoreError``.
    """
    listed = list_objects(run.source)
    output = Output.open(run.output_uri, run.config)
    outside = ((each.uri, each.size, each.version) for each in listed if not each.uri.startswith(output.uri + "/"))
    snapshot = Snapshot(output)
    try:
        objects = snapshot.list_source(outside, again=_tried_again(run.settings))
        units = len(snapshot.pending(done_units(output)).units)
    except BaseException:
        snapshot.close()
        raise
    return Discovered(snapshot, objects, snapshot.new_count, units)


def _tried_again(settings: RunSettings) -> Collection[Reason]:
    """Why an object could not be opened before, and yet may be now that somebody starts another run."""
    passing = {Reason.UNREACHABLE, Reason.UNREADABLE, Reason.TIMEOUT}
    return passing | {Reason.ENCRYPTED} if settings.password is not None else passing


def plan(
    run: Run, discovered: Discovered, on_progress: OnProgress = ignore, should_stop: ShouldStop = never
) -> Planned:
    """Look into the new objects on Ray and append them to the plan; done again, it goes on where it was.

    Raises ``UsageError``, ``StoreError``, ``RTPruneError``.
    """
    from rtprune.corpus.look_into import look_into

    return look_into(run, discovered.snapshot, on_progress, should_stop)


def read(
    run: Run,
    discovered: Discovered,
    on_progress: OnProgress = ignore,
    should_stop: ShouldStop = never,
    worker_class: type[Worker] | None = None,
) -> Done:
    """Read the planned units that are not done yet on Ray; done again, it goes on where it was.

    A unit that kills its worker or takes too long, alone and again and again, is read page by page; only pages that
    fail alone get failed rows. That waits until another unit is read or nothing else is left, so that what fails every
    unit fails the run and no page.

    Args:
        worker_class: workers of this kind instead.

    Raises:
        UsageError: the model cannot be loaded, or the store refuses.
        StoreError: documents could not be fetched, or rows not be committed; all that could be is done.
        RTPruneError: unit after unit fails: something is wrong that is no document's fault.
    """
    from rtprune.corpus.pool import Pool
    from rtprune.corpus.read_units import UnitReader

    output, snapshot, settings = discovered.output, discovered.snapshot, run.settings
    reader = UnitReader(
        run, output, lambda: snapshot.pending(done_units(output)), snapshot.units, on_progress, should_stop
    )
    if reader.nothing_to_do:
        return Done()

    def place() -> Placement:
        reading = settings.model != NO_MODEL
        return place_workers(live_nodes(), settings.workers, parameters=run.parameters, reading=reading)

    placement = place()
    level = logging.getLogger("rtprune").getEffectiveLevel()
    pool: Pool[Any, Any] = Pool(
        worker_class or Worker,
        (output, run.run_id, settings, run.label, placement, level),
        placement,
        capacity=units_in_flight(settings, gpu=placement.gpus > 0),
        task_timeout_s=settings.unit_timeout_s,
        on_loss=reader.worker_lost,
        workers=lambda: place().workers,
    )
    try:
        return reader.read(pool)
    finally:
        pool.close()


def units_in_flight(settings: RunSettings, *, gpu: bool) -> int:
    """How many units a worker has at a time: enough that pages of the next ones take slots as they become free."""
    ahead = -(-2 * (settings.batch_pages or SLOTS["cuda" if gpu else "cpu"]) // settings.unit_pages)
    return min(MOST_IN_FLIGHT, max(LEAST_IN_FLIGHT, ahead + 1))


def publish(run: Run, discovered: Discovered, planned: Planned, done: Done) -> RunSummary:
    """Delete dead files, write the ``documents`` rows that lack, and the run's row.

    Writes nothing where nothing was done and all is published.
    """
    output = discovered.output
    swept = sweep(output)
    published = discovered.snapshot.publish_documents()
    worked = not discovered.nothing_to_do
    stopped = done.left > 0 or planned.stopped
    fault = too_many_failed(run.settings.max_failed, planned, done.tally)
    ended: Literal["finished", "failed", "stopped"] = "stopped" if stopped else "failed" if fault else "finished"
    if worked:
        row = _row(run, ended, fault)
        record_run(
            output,
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
        output=output.uri,
        status=ended if worked or swept or published else "nothing to do",
        objects=discovered.objects,
        documents=planned.documents,
        documents_failed=planned.documents_failed,
        units=done.units,
        units_left=done.left,
        tally=done.tally,
        seconds=time.monotonic() - run.began,
        elsewhere=done.elsewhere,
        doubled=done.doubled,
        not_documents=planned.not_documents,
        message=fault,
        failures=first_failures(planned.failures + done.tally.failures),
    )


@contextmanager
def recorded(run: Run, output: Output) -> Iterator[None]:
    """The run's row in OUTPUT: "running" before the block, and how it failed after."""
    record_run(output, _row(run, "running"))
    try:
        yield
    except BaseException as error:
        message = str(error) if isinstance(error, RTPruneError) else type(error).__name__
        with suppress(RTPruneError, OSError):  # what went wrong first is what to say
            record_run(output, _row(run, "failed" if isinstance(error, Exception) else "stopped", message))
        raise


@contextmanager
def last_seen(run: Run, output: Output) -> Iterator[None]:
    """Renew the row's ``last_seen_at`` meanwhile, so that readers see when a run that was killed was last alive."""
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(SEEN_EVERY_S):
            with suppress(RTPruneError, OSError):  # a store that is away for a while; the next one will do
                record_run(output, _row(run, "running"))

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _row(run: Run, status: RunStatus, message: str | None = None) -> RunRow:
    now = datetime.now(UTC)
    return RunRow(
        run_id=run.run_id,
        started_at=run.started_at,
        last_seen_at=now,
        ended_at=None if status == "running" else now,
        status=status,
        source=run.source,
        settings=run.settings.model_dump(mode="json", exclude={"password"}),
        message=message,
    )
