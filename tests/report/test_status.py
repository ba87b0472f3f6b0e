"""What ``rtprune status`` prints."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from rtprune.dataset import DatasetStatus, RunState, Statistics
from rtprune.report.status import status_text, status_values

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
FACTS = Statistics(
    pages={"failed": 3, "ok": 1201},
    documents={"failed": 2, "ok": 5},
    page_failures={"damaged": 2, "timeout": 1},
    document_failures={"encrypted": 2},
    planned_pages=5000,
    visual_tokens_before=10_000,
    visual_tokens_after=8_000,
    prompt_tokens=0,
    output_tokens=0,
    stage_ms={},
)


def run(run_id: str, *, began_s: float, seen_s: float, pages: int) -> RunState:
    began, seen = NOW - timedelta(seconds=began_s), NOW - timedelta(seconds=seen_s)
    return RunState(run_id, "s3://in", "running", began, seen, None, pages, seen_s)


AT_WORK = run("r3", began_s=500, seen_s=8, pages=1000)
KILLED = run("r2", began_s=8000, seen_s=7500, pages=104)
ENDED = replace(
    run("r1", began_s=9000, seen_s=0, pages=100),
    status="failed",
    ended_at=NOW - timedelta(seconds=8700),
    message="no GPU\x1b[31m",
)


def test_it_tells_done_left_rate_failures_savings_and_runs() -> None:
    assert status_text(DatasetStatus("s3://b/out", NOW, FACTS, [AT_WORK, KILLED, ENDED])).splitlines() == [
        "dataset           s3://b/out",
        "pages             1,204 of 5,000 planned so far (24.1 %), 3,796 left",
        "documents         7 (failed 2, ok 5)",
        "failed documents  encrypted 2",
        "failed pages      damaged 2, timeout 1",
        "visual tokens     10,000 -> 8,000 (20.0 % saved)",
        "rate              2.0 pages/s, the mean since the runs at work began",
        "time left         31 min 38 s for the pages planned so far, at this rate",
        "runs              1 at work, 1 not seen lately, 1 ended",
        "r3 at work for 8 min 20 s, seen 8 s ago, 1,000 pages committed, 2.0 pages/s, from s3://in",
        "r2 says it is running and was last seen 2 h 5 min ago, 104 pages committed, 0.2 pages/s, from s3://in",
        "r1 failed 2 h 25 min ago after 5 min 0 s, 100 pages committed, 0.3 pages/s, from s3://in: no GPU\\x1b[31m",
    ]


def test_without_a_run_at_work_no_rate_and_no_end_is_promised() -> None:
    text = status_text(DatasetStatus("out", NOW, FACTS, [KILLED]))
    assert "1,204 of 5,000 planned (24.1 %), 3,796 left" in text
    assert "rate  " not in text
    assert "time left" not in text
    fresh = status_text(DatasetStatus("out", NOW, FACTS, [replace(AT_WORK, pages=0)]))
    assert "rate              not known yet" in fresh
    assert "time left" not in fresh


def test_the_last_runs_are_shown_and_the_others_counted() -> None:
    text = status_text(DatasetStatus("out", NOW, FACTS, [AT_WORK, *[ENDED] * 12]))
    assert text.count("r1 failed") == 9
    assert text.splitlines()[-1] == "and 3 earlier runs: --json has all"


def test_programs_get_all_of_it() -> None:
    status = DatasetStatus("out", NOW, FACTS, [AT_WORK, KILLED, *[ENDED] * 12])
    values = json.loads(json.dumps(status_values(status)))
    assert len(values["runs"]) == 14
    assert [each["at_work"] for each in values["runs"][:3]] == [True, False, False]
    assert datetime.fromisoformat(values["runs"][0]["started_at"]) == AT_WORK.started_at
    assert (values["planned_pages"], values["pages_left"], values["pages"]["failed"]) == (5000, 3796, 3)
    assert values["pages_per_second"] == 2.0
    assert values["seconds_left"] == 1898.0
