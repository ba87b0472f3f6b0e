"""The line is measured on pages that really go through it."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from rtprune.bench import pipeline
from rtprune.cli import main


@pytest.mark.slow
def test_line_bare_loop_and_scaling_are_measured() -> None:
    asked = ["bench", "pipeline", "--pages", "96", "--workers", "1", "--page-ms", "30", "--repeats", "1", "--json"]
    fewer = "import sys; from rtprune.bench import pipeline; pipeline.SCALE_PAGES = 48"
    program = f"{fewer}; from rtprune.cli import main; sys.exit(main({asked!r}))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert (found["pages"], found["workers"], found["page_ms"]) == (96, 1, 30)
    assert found["share"] == pytest.approx(found["line"] / found["bare"], rel=0.01)
    assert found["scaling"].keys() == found["efficiency"].keys() == {"1", "2", "4"}
    assert found["scaling"]["1"] > 0
    assert found["efficiency"]["1"] == 1
    said = pipeline.report(found)
    assert said.startswith("96 pages, 1 worker; start-up, ")
    assert "4 workers" in said


def test_the_sleeping_engine_takes_its_time_for_every_page() -> None:
    begin = time.monotonic()
    read = list(pipeline.SleepingEngine(0.03).stream([("a", object()), None, ("b", object())], lambda name: False))
    assert time.monotonic() - begin >= 2 * 0.03
    assert [(name, result.status) for name, result in read] == [("a", "skipped"), ("b", "skipped")]


@pytest.mark.parametrize("given", [["--pages", "0"], ["--workers", "-1"], ["--page-ms", "nan"], ["--repeats", "0"]])
def test_numbers_that_measure_nothing_are_refused(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "pipeline", *given]) == 2
    assert f"{given[0]} must be " in capsys.readouterr().err
