"""The rows of runs."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from rtprune.dataset.layout import Output
from rtprune.dataset.parquet import parquet_bytes
from rtprune.dataset.schema import RUNS, RunRow, run_table
from rtprune.errors import RTPruneError
from rtprune.store import find, get_many, join, put

SEEN_EVERY_S = 30.0  # how often a run that works renews its row


def record_run(output: Output, row: RunRow) -> None:
    """Write the run's row; writing it again, while the run works and when it ends, replaces it.

    Raises:
        UsageError: the run's id is not fit to name a file.
        StoreError: the store failed.
    """
    put(output.run_uri(row.run_id), parquet_bytes(run_table(row, config_hash=output.config_hash)))


def read_runs(output: Output) -> pa.Table:
    """The row of every run, the one that began last first.

    Raises:
        RTPruneError: a row is damaged.
        StoreError: the store failed.
    """
    rows = [RUNS.empty_table()]
    for uri, data in get_many(find(join(output.uri, "runs"), ".parquet")).items():
        try:
            rows.append(pq.read_table(pa.BufferReader(data)).select(RUNS.names).cast(RUNS))
        except (pa.ArrowException, KeyError, OSError, ValueError) as error:
            raise RTPruneError(f"{uri} is damaged", "delete it: it holds the row of one run and no page") from error
    return pa.concat_tables(rows).sort_by([("started_at", "descending")])
