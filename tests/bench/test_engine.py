from __future__ import annotations

import json

import pytest

from rtprune.bench.engine import report
from rtprune.cli import main


@pytest.mark.slow
def test_every_way_of_reading_is_measured_and_gives_the_same_text(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--pages", "2", "--repeats", "1", "--slots", "2", "--threads", "1", "--json"]
    assert main(["bench", "engine", *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["pages"], found["slots"]) == ("mini", 2, 2)
    assert list(found["ways"]) == ["unpruned", "dynamic"]
    for ways in found["ways"].values():
        assert len(ways) == 5
        assert all(cost["equal_text"] == 1.0 for cost in ways.values())
        assert all(cost["pages_per_s"] > 0 for cost in ways.values())
        plain, guided = ways["engine"], ways["engine, with text layers"]
        assert guided["decode_steps"] < plain["decode_steps"] / 2.5
        assert sum(plain["time_share"].values()) == pytest.approx(1, abs=0.01)
    assert report(found).count("\n") == 12


@pytest.mark.parametrize("flag", ["--pages", "--slots", "--repeats", "--threads"])
def test_counts_below_one_are_refused(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "engine", flag, "0"]) == 2
    assert f"{flag} must be at least 1" in capsys.readouterr().err
