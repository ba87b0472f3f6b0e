"""The row of a run."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pyarrow.parquet as pq

from rtprune.dataset import Output, RunRow, record_run
from rtprune.dataset.schema import SCHEMA_VERSION
from rtprune.store import find, get, join


def test_the_row_of_a_run_is_replaced_while_it_works_and_never_holds_a_password(output: Output) -> None:
    started = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
    ended = started + timedelta(minutes=5)
    settings = {"mode": "tiny", "password": "hunter2", "prune": 0.25}
    row = RunRow("r1", started, started, None, "running", "s3://in", settings)
    record_run(output, row)
    record_run(
        output, replace(row, last_seen_at=ended, ended_at=ended, status="finished", pages=17, visual_tokens_before=100)
    )
    (uri,) = find(join(output.uri, "runs"), ".parquet")
    assert uri == output.run_uri("r1")
    data = get(uri)
    assert b"hunter2" not in data
    (read,) = pq.read_table(io.BytesIO(data)).to_pylist()
    assert json.loads(read["settings"]) == {"mode": "tiny", "prune": 0.25}
    times = (read["started_at"], read["last_seen_at"], read["ended_at"])
    assert (*times, read["status"]) == (started, ended, ended, "finished")
    assert (read["run_id"], read["pages"], read["visual_tokens_before"], read["source"]) == ("r1", 17, 100, "s3://in")
    assert (read["config_hash"], read["schema_version"]) == (output.config_hash, SCHEMA_VERSION)
