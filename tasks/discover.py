"""List the source and hold it against the dataset."""

from __future__ import annotations

from prefect import task
from prefect.logging import get_run_logger

from rtprune.corpus import run as steps
from rtprune.corpus.values import Discovered, Run
from tasks.retries import STEP


@task(**STEP)
def discover(run: Run) -> Discovered:
    """Objects still to be looked into, and planned units that are not done yet."""
    discovered = steps.discover(run)
    get_run_logger().info(
        "%d objects in %s: %d to look into, %d planned units still to read",
        discovered.objects,
        run.source,
        discovered.new,
        discovered.units,
    )
    return discovered
