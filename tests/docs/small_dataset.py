"""A dataset to try what the pages show."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from rtprune.dataset import DocumentRow, Output, RunRow, commit_unit, record_run
from rtprune.errors import Reason
from tests.dataset.samples import CONFIG, document, plan, publish_documents, rows_of

REFUSED = DocumentRow("s3://in/c.pdf", "1", 9, "failed", reason=Reason.DAMAGED, message="c.pdf is damaged")


def fill(uri: str) -> None:
    """Two documents, one of them twice in the source, failed pages, and a run that was killed."""
    output = Output.open(uri, CONFIG)
    documents = [document("a", 3), document("b", 2), document("copy", 3, content="a"), REFUSED]
    for unit in plan(output, documents, unit_pages=2, run_id="r1"):
        first, *others = rows_of(unit)
        failed = replace(first, status="failed", text=None, reason=Reason.TIMEOUT, message="it took too long")
        commit_unit(output, unit, [failed, *others], "r1")
    publish_documents(output)
    began = datetime.now(UTC) - timedelta(hours=1)
    record_run(output, RunRow("r1", began, began, None, "running", "s3://in", {}))
