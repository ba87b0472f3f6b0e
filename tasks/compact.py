"""Gather small data files into large ones."""

from __future__ import annotations

from prefect import task
from prefect.logging import get_run_logger

from rtprune.dataset import Compaction, Output, compact_dataset
from rtprune.report.upkeep import compaction_summary
from tasks.retries import STEP


@task(**STEP)
def compact(output: str, target: int) -> Compaction:
    """Files of up to about ``target`` bytes in place of smaller ones; tried again, it goes on where it was."""
    dataset = Output.existing(output)
    done = compact_dataset(dataset, target=target)
    get_run_logger().info(compaction_summary(dataset.uri, done))
    return done
