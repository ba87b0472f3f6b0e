"""Read units on Ray."""

from __future__ import annotations

import time

from prefect import task
from prefect.logging import get_run_logger

from rtprune.corpus import run as steps
from rtprune.corpus.values import Discovered, Done, OnProgress, Progress, Run, ShouldStop
from rtprune.report.wording import share_saved
from tasks.retries import STEP

LOG_EVERY_S = 30.0


@task(**STEP)
def read(run: Run, discovered: Discovered, on_progress: OnProgress, should_stop: ShouldStop) -> Done:
    """Every page of the planned units in the dataset, those that cannot be read as failed rows."""
    logger = get_run_logger()
    logged_at, logged = time.monotonic(), 0

    def log(progress: Progress) -> None:
        nonlocal logged_at, logged
        on_progress(progress)
        ended = progress.done == progress.total
        if progress.done == logged or (time.monotonic() - logged_at < LOG_EVERY_S and not ended):
            return
        logged_at, logged = time.monotonic(), progress.done
        saved = share_saved(progress.tokens_before, progress.tokens_after)
        logger.info("%d of %d pages, %d failed, %s tokens saved", progress.done, progress.total, progress.failed, saved)

    return steps.read(run, discovered, log, should_stop)
