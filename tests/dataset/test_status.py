"""How far runs are is told from OUTPUT alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from rtprune.dataset import DocumentRow, Output, RunRow, commit_unit, compact_dataset, dataset_status, record_run
from rtprune.dataset.status import SILENT_AFTER_S
from rtprune.errors import Reason, RTPruneError
from rtprune.store import get, put
from tests.dataset.samples import document, plan, rows_of


def run_row(run_id: str, *, began_s: float, seen_s: float, status: str = "running", ended: bool = False) -> RunRow:
    """A run that began and was last seen so many seconds ago."""
    now = datetime.now(UTC)
    seen = now - timedelta(seconds=seen_s)
    row = RunRow(run_id, now - timedelta(seconds=began_s), seen, None, "running", "s3://in", {})
    return replace(row, status=status, ended_at=seen if ended else None)  # type: ignore[arg-type]


def test_a_dataset_without_runs_has_nothing_to_tell(output: Output) -> None:
    status = dataset_status(output)
    assert (status.facts.planned_pages, status.pages_left, list(status.runs)) == (0, 0, [])
    assert (status.pages_per_second, status.seconds_left) == (None, None)


def test_rate_and_time_left_are_those_of_the_runs_at_work(output: Output) -> None:
    first, second, third, _ = plan(output, [document("a", 40)], unit_pages=10, run_id="early")
    for unit, run_id in ((first, "early"), (second, "slow"), (third, "fast")):
        commit_unit(output, unit, rows_of(unit), run_id)
    record_run(output, run_row("early", began_s=9000, seen_s=8000, status="stopped", ended=True))
    record_run(output, run_row("killed", began_s=5000, seen_s=SILENT_AFTER_S + 60))
    record_run(output, run_row("slow", began_s=100, seen_s=5))
    record_run(output, run_row("fast", began_s=20, seen_s=5))
    compact_dataset(output)  # who read a page is still known

    status = dataset_status(output)
    assert [run.run_id for run in status.runs] == ["fast", "slow", "killed", "early"]
    assert {run.run_id for run in status.at_work} == {"fast", "slow"}
    rates = {run.run_id: run.pages_per_second for run in status.runs}
    assert rates["slow"] == pytest.approx(0.1, rel=0.1)
    assert rates["fast"] == pytest.approx(0.5, rel=0.1)
    assert rates["killed"] is None
    assert rates["early"] == pytest.approx(0.01, rel=0.01)
    assert status.pages_left == 10
    assert status.pages_per_second == pytest.approx(0.6, rel=0.1)
    assert status.seconds_left == pytest.approx(10 / 0.6, rel=0.1)


def test_a_run_that_was_killed_is_not_at_work_and_promises_no_end(output: Output) -> None:
    unit, _ = plan(output, [document("a", 20)], unit_pages=10, run_id="r1")
    commit_unit(output, unit, rows_of(unit), "r1")
    record_run(output, run_row("r1", began_s=900, seen_s=SILENT_AFTER_S + 1))
    (run,) = dataset_status(output).runs
    assert (run.status, run.at_work, run.pages) == ("running", False, 10)
    assert run.unseen_s == pytest.approx(SILENT_AFTER_S + 1, abs=5)
    assert (dataset_status(output).pages_per_second, dataset_status(output).seconds_left) == (None, None)


def test_a_clock_that_is_ahead_or_behind_changes_the_rate_by_one_renewal_at_most(output: Output) -> None:
    (unit,) = plan(output, [document("a", 10)], unit_pages=10, run_id="r1")
    commit_unit(output, unit, rows_of(unit), "r1")
    for ahead in (-90.0, 0.0, 3600.0):
        record_run(output, run_row("r1", began_s=600 - ahead, seen_s=-ahead))
        (run,) = dataset_status(output).runs
        assert run.at_work
        assert run.unseen_s >= 0
        assert 600 <= run.seconds <= 630
        assert run.pages_per_second == pytest.approx(10 / 600, rel=0.06)


def test_failures_and_savings_are_those_of_the_dataset(output: Output) -> None:
    locked = DocumentRow("s3://in/x.pdf", "1", 3, "failed", reason=Reason.ENCRYPTED)
    (unit,) = plan(output, [document("a", 2), locked], unit_pages=3, run_id="r1")
    first, second = rows_of(unit)
    commit_unit(output, unit, [first, replace(second, status="failed", reason=Reason.DAMAGED)], "r1")
    facts = dataset_status(output).facts
    assert (facts.page_failures, facts.document_failures) == ({"damaged": 1}, {"encrypted": 1})
    assert (facts.visual_tokens_before, facts.visual_tokens_after) == (146, 120)
    assert facts.pages_by_run == {"r1": 2}


def test_a_damaged_row_of_a_run_is_named(output: Output) -> None:
    record_run(output, run_row("r1", began_s=9, seen_s=1))
    put(output.run_uri("r1"), get(output.run_uri("r1"))[:-20])
    with pytest.raises(RTPruneError, match=r"r1\.parquet is damaged \(delete it"):
        dataset_status(output)
