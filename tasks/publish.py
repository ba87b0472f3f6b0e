"""Make what was read visible, and show what pruning saved."""

from __future__ import annotations

from prefect import task
from prefect.artifacts import create_table_artifact

from rtprune.corpus import run as steps
from rtprune.corpus.values import Discovered, Done, Planned, Run, RunSummary
from rtprune.dataset import statistics
from rtprune.report.wording import share_saved
from tasks.retries import STEP

SAVINGS = "rtprune-savings"


@task(**STEP)
def publish(run: Run, discovered: Discovered, planned: Planned, done: Done) -> RunSummary:
    """The run's row, and a table artifact: this run beside the whole dataset."""
    summary = steps.publish(run, discovered, planned, done)
    whole = statistics(discovered.output)
    tally = summary.tally
    failed = whole.pages.get("failed", 0)
    create_table_artifact(
        key=SAVINGS,
        table=[
            _row("this run", tally.pages, tally.failed, tally.tokens_before, tally.tokens_after),
            _row("dataset", whole.page_count, failed, whole.visual_tokens_before, whole.visual_tokens_after),
        ],
        description=f"Visual tokens before and after pruning: {summary.output}, run {summary.run_id}",
    )
    return summary


def _row(of: str, pages: int, failed: int, before: int, after: int) -> dict[str, str | int]:
    return {
        "of": of,
        "pages": pages,
        "failed pages": failed,
        "visual tokens before": before,
        "visual tokens after": after,
        "saved": share_saved(before, after),
    }
