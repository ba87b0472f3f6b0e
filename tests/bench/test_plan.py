"""What planning costs is measured on a corpus that is really planned."""

from __future__ import annotations

import json

import pytest

from rtprune.cli import main


def test_planning_is_measured_stage_by_stage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "plan", "--objects", "1500", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["objects"] == 1500
    assert all(found[stage] > 0 for stage in ("discover_s", "plan_s", "resume_s"))
    assert found["peak_mib"] >= found["before_mib"] > 0
    assert main(["bench", "plan", "--objects", "1500"]) == 0
    assert capsys.readouterr().out.startswith("1,500 objects; seconds of one core\ndiscover ")
