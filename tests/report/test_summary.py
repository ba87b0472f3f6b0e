"""What is printed at the end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rtprune.corpus.values import RunSummary
from rtprune.corpus.worker import Tally
from rtprune.dataset import FailureRow, Statistics
from rtprune.report.summary import dataset_statistics, run_summary
from rtprune.report.wording import count, duration, share_saved

RUN = RunSummary("r1", "s3://b/out", "finished", 4, 3, 1, 2, 0, Tally(1200, 2, 10_000, 8_000), 75.0)


def test_summary_tells_pages_failures_and_tokens_saved() -> None:
    text = run_summary(RUN)
    assert text.splitlines()[0] == "finished in 1 min 15 s"
    assert "1,200 recorded, 2 of them failed" in text
    assert "3 looked into, 1 of them could not be opened" in text
    assert "10,000 -> 8,000 (20.0 % saved)" in text
    assert "s3://b/out" in text


def test_stopped_run_says_how_to_go_on() -> None:
    assert "the same command goes on" in run_summary(replace(RUN, status="stopped", units_left=3))


def test_run_without_work_says_so() -> None:
    assert run_summary(replace(RUN, status="nothing to do")).startswith("nothing to do: all of 4 objects")


def test_statistics_name_failures_by_reason_and_missing_pages() -> None:
    facts = Statistics(
        pages={"failed": 3, "ok": 7},
        documents={"failed": 2, "ok": 5},
        page_failures={"damaged": 2, "timeout": 1},
        document_failures={"encrypted": 2},
        planned_pages=12,
        visual_tokens_before=730,
        visual_tokens_after=600,
        prompt_tokens=0,
        output_tokens=1234,
        stage_ms={"render": 1000.0, "decode": 3000.0},
    )
    text = dataset_statistics("/data/out", facts)
    assert "10 (failed 3, ok 7)" in text
    assert "damaged 2, timeout 1" in text
    assert "encrypted 2" in text
    assert "730 -> 600 (17.8 % saved)" in text
    assert "2 planned pages are still to be read" in text
    assert "render 25 %, decode 75 %" in text


def test_a_run_and_a_dataset_name_what_failed() -> None:
    torn = FailureRow("s3://in/b.pdf", 7, "damaged", "torn", passing=False)
    ended = run_summary(replace(RUN, failures=(torn,))).splitlines()
    assert ended[-3:] == [
        "failures",
        "  s3://in/b.pdf, page 7 [damaged] torn",
        "  and 2 more: rtprune failures s3://b/out",
    ]
    assert "\nfailures" not in run_summary(replace(RUN, documents_failed=0, tally=Tally(1200)))


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_counts_and_shares() -> None:
    assert count(1, "page") == "1 page"
    assert count(1204, "page") == "1,204 pages"
    assert share_saved(0, 0) == "0 %"


def test_a_run_that_shared_its_work_says_what_others_did() -> None:
    text = run_summary(replace(RUN, elsewhere=312, doubled=4))
    assert "other runs        312 units, 4 of them read here as well" in text
    assert "other runs" not in run_summary(RUN)
