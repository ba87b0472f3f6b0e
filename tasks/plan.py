"""Look into new objects and cut them into units."""

from __future__ import annotations

from prefect import task
from prefect.logging import get_run_logger

from rtprune.corpus import steps
from rtprune.corpus.values import Found, Planned, Run, ShouldStop
from tasks.retries import STEP


@task(**STEP)
def plan(run: Run, found: Found, should_stop: ShouldStop) -> Planned:
    """Units to read; their documents have their rows then."""
    planned = steps.plan(run, found, should_stop=should_stop)
    get_run_logger().info(
        "%d documents looked into, %d cannot be opened; %d units to read",
        planned.documents,
        planned.documents_failed,
        planned.pending.units,
    )
    return planned
