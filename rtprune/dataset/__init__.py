"""Results out: the schema, the plan of what is to be read, a file for each unit, and reading it all back."""

from __future__ import annotations

from rtprune.dataset.compact import Compaction, compact_dataset
from rtprune.dataset.files import (
    CompactedFile,
    FileSet,
    UnitFile,
    commit_unit,
    current_files,
    done_units,
    is_done,
    rows_of_run,
    sweep,
)
from rtprune.dataset.findings import Finding, Verdict
from rtprune.dataset.layout import Output, new_run_id
from rtprune.dataset.plan import PageSlice, Unit, plan_units
from rtprune.dataset.read import Statistics, read_documents, read_failures, read_pages, statistics
from rtprune.dataset.runs import record_run
from rtprune.dataset.schema import DocumentRow, PageRow, RegionRow, RunRow
from rtprune.dataset.snapshot import Pending, Snapshot
from rtprune.dataset.verify import verify_dataset

__all__ = [
    "CompactedFile",
    "Compaction",
    "DocumentRow",
    "FileSet",
    "Finding",
    "Output",
    "PageRow",
    "PageSlice",
    "Pending",
    "RegionRow",
    "RunRow",
    "Snapshot",
    "Statistics",
    "Unit",
    "UnitFile",
    "Verdict",
    "commit_unit",
    "compact_dataset",
    "current_files",
    "done_units",
    "is_done",
    "new_run_id",
    "plan_units",
    "read_documents",
    "read_failures",
    "read_pages",
    "record_run",
    "rows_of_run",
    "statistics",
    "sweep",
    "verify_dataset",
]
