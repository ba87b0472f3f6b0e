"""``rtprune doctor`` prints a line for each thing, and ends with 1 where something keeps a run from working."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rtprune.cli.app import main


def test_no_problem_ends_with_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(tmp_path / "out"), "--model", "mini"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line[9:24].strip() for line in lines if not line.startswith(" ")]
    assert names[:4] == ["python", "variables", "device", "model"]
    assert names[-1] == "output"


def test_a_problem_ends_with_1_and_json_says_which(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RTPRUNE_MODLE", "mini")
    assert main(["doctor", "--model", "mini", "--json"]) == 1
    checks = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in checks if each["state"] == "problem"] == ["variables"]
    assert checks[1]["advice"].startswith("rename it to")


def test_what_to_do_stands_below_what_was_found(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RTPRUNE_MODLE", "mini")
    main(["doctor", "--model", "mini"])
    lines = capsys.readouterr().out.splitlines()
    (place,) = [number for number, line in enumerate(lines) if line.startswith("problem")]
    assert lines[place] == "problem  variables      RTPRUNE_MODLE is no setting"
    assert lines[place + 1].strip().startswith("-> rename it to RTPRUNE_MODE")
