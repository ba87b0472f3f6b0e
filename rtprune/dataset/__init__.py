"""Results out: the schema, the plan of what is to be read, a file for each unit, and reading it all back.

Each is loaded when first asked for: workers write units, and need nothing of what joins, verifies and compacts them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rtprune.dataset.compact import Compaction, compact_dataset
    from rtprune.dataset.failures import FailureRow, first_failures
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
    from rtprune.dataset.runs import read_runs, record_run
    from rtprune.dataset.schema import DocumentRow, PageRow, RegionRow, RunRow
    from rtprune.dataset.snapshot import Pending, Snapshot
    from rtprune.dataset.status import DatasetStatus, RunState, dataset_status
    from rtprune.dataset.verify import verify_dataset

_HOMES = {
    "CompactedFile": "files",
    "Compaction": "compact",
    "DatasetStatus": "status",
    "DocumentRow": "schema",
    "FailureRow": "failures",
    "FileSet": "files",
    "Finding": "findings",
    "Output": "layout",
    "PageRow": "schema",
    "PageSlice": "plan",
    "Pending": "snapshot",
    "RegionRow": "schema",
    "RunRow": "schema",
    "RunState": "status",
    "Snapshot": "snapshot",
    "Statistics": "read",
    "Unit": "plan",
    "UnitFile": "files",
    "Verdict": "findings",
    "commit_unit": "files",
    "compact_dataset": "compact",
    "current_files": "files",
    "dataset_status": "status",
    "done_units": "files",
    "first_failures": "failures",
    "is_done": "files",
    "new_run_id": "layout",
    "plan_units": "plan",
    "read_documents": "read",
    "read_failures": "read",
    "read_pages": "read",
    "read_runs": "runs",
    "record_run": "runs",
    "rows_of_run": "files",
    "statistics": "read",
    "sweep": "files",
    "verify_dataset": "verify",
}

__all__ = [
    "CompactedFile",
    "Compaction",
    "DatasetStatus",
    "DocumentRow",
    "FailureRow",
    "FileSet",
    "Finding",
    "Output",
    "PageRow",
    "PageSlice",
    "Pending",
    "RegionRow",
    "RunRow",
    "RunState",
    "Snapshot",
    "Statistics",
    "Unit",
    "UnitFile",
    "Verdict",
    "commit_unit",
    "compact_dataset",
    "current_files",
    "dataset_status",
    "done_units",
    "first_failures",
    "is_done",
    "new_run_id",
    "plan_units",
    "read_documents",
    "read_failures",
    "read_pages",
    "read_runs",
    "record_run",
    "rows_of_run",
    "statistics",
    "sweep",
    "verify_dataset",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
