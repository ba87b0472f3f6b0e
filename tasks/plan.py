"""Look into new objects and cut them into units."""

from __future__ import annotations

from prefect import task
from prefect.logging import get_run_logger

from rtprune.corpus import run as steps
from rtprune.corpus.values import Discovered, OnProgress, Planned, Run, ShouldStop
from tasks.retries import STEP


@task(**STEP)
def plan(run: Run, discovered: Discovered, on_progress: OnProgress, should_stop: ShouldStop) -> Planned:
    """Units to read; their documents have their rows then."""
    planned = steps.plan(run, discovered, on_progress, should_stop)
    get_run_logger().info("%d documents looked into, %d cannot be opened", planned.documents, planned.documents_failed)
    return planned
