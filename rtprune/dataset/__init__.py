"""Results out: the schema, the plan of what is to be read, exactly-once commits, and reading it all back."""

from __future__ import annotations

from rtprune.dataset.commit import (
    CommittedFile,
    Published,
    commit_unit,
    committed_files,
    committed_units,
    publish,
    record_run,
)
from rtprune.dataset.output import Output, new_run_id
from rtprune.dataset.plan import PageSlice, PlanLog, WorkUnit, plan_units
from rtprune.dataset.read import Statistics, read_documents, read_pages, statistics
from rtprune.dataset.schema import DocumentRow, PageRow, RegionRow, RunRow

__all__ = [
    "CommittedFile",
    "DocumentRow",
    "Output",
    "PageRow",
    "PageSlice",
    "PlanLog",
    "Published",
    "RegionRow",
    "RunRow",
    "Statistics",
    "WorkUnit",
    "commit_unit",
    "committed_files",
    "committed_units",
    "new_run_id",
    "plan_units",
    "publish",
    "read_documents",
    "read_pages",
    "record_run",
    "statistics",
]
