"""The row of a run."""

from __future__ import annotations

from rtprune.dataset.layout import Output
from rtprune.dataset.parquet import parquet_bytes
from rtprune.dataset.schema import RunRow, run_table
from rtprune.store import put


def record_run(output: Output, row: RunRow) -> None:
    """Write the run's row; writing it again, while the run works and when it ends, replaces it.

    Raises:
        UsageError: the run's id is not fit to name a file.
        StoreError: the store failed.
    """
    put(output.run_uri(row.run_id), parquet_bytes(run_table(row, config_hash=output.config_hash)))
