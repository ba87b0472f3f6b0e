"""List the source and hold it against the dataset."""

from __future__ import annotations

from prefect import task
from prefect.logging import get_run_logger

from rtprune.corpus import steps
from rtprune.corpus.values import Found, Run
from tasks.retries import STEP


@task(**STEP)
def discover(run: Run) -> Found:
    """Objects still to be opened, and planned units that are not committed yet."""
    found = steps.discover(run)
    get_run_logger().info(
        "%d objects in %s: %d to look into, %d planned units still to read",
        found.objects,
        run.source,
        len(found.new),
        found.pending.units,
    )
    return found
