"""Results out: the schema, the plan of what is to be read, exactly-once commits, and reading it all back."""

from __future__ import annotations

from rtprune.dataset.claims import Claims, heartbeat
from rtprune.dataset.commit import (
    Published,
    bury_dead_runs,
    commit_unit,
    committed_units,
    is_committed,
    publish,
    record_run,
)
from rtprune.dataset.compact import Compaction, compact_dataset
from rtprune.dataset.files import CommittedFile, CompactedFile, committed_files
from rtprune.dataset.findings import Finding, Verdict
from rtprune.dataset.output import Output, new_run_id
from rtprune.dataset.plan import PageSlice, Pending, PlanLog, Unit, copies, pending, pending_units, plan_units
from rtprune.dataset.read import Statistics, read_documents, read_pages, statistics
from rtprune.dataset.schema import DocumentRow, PageRow, RegionRow, RunRow
from rtprune.dataset.verify import verify_dataset

__all__ = [
    "Claims",
    "CommittedFile",
    "CompactedFile",
    "Compaction",
    "DocumentRow",
    "Finding",
    "Output",
    "PageRow",
    "PageSlice",
    "Pending",
    "PlanLog",
    "Published",
    "RegionRow",
    "RunRow",
    "Statistics",
    "Unit",
    "Verdict",
    "bury_dead_runs",
    "commit_unit",
    "committed_files",
    "committed_units",
    "compact_dataset",
    "copies",
    "heartbeat",
    "is_committed",
    "new_run_id",
    "pending",
    "pending_units",
    "plan_units",
    "publish",
    "read_documents",
    "read_pages",
    "record_run",
    "statistics",
    "verify_dataset",
]
