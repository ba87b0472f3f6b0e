"""What the driver does for each unit can be measured without workers."""

from __future__ import annotations

import json

import pytest

from rtprune.cli import main


def test_the_driver_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "driver", "--workers", "20", "--units", "200", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert (measured["workers"], measured["units"]) == (20, 200)
    assert measured["units_per_s"] > 0
