"""A variable that was meant for us and is misspelt is never passed over."""

from __future__ import annotations

from pathlib import Path

import pytest

import rtprune
from rtprune.corpus.run import prepare
from rtprune.errors import UsageError
from rtprune.settings import RunSettings, check_variables


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("RTPRUNE_TASKS", "RTPRUNE_TASK"),
        ("RTPRUNE_MODLE", "RTPRUNE_MODE or RTPRUNE_MODEL"),
        ("RTPRUNE_BATCH_PAGE", "RTPRUNE_BATCH_PAGES"),
        ("RTPRUNE_LOGLEVEL", "RTPRUNE_LOG_LEVEL"),
    ],
)
def test_a_misspelt_variable_is_refused_and_the_right_one_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wrong: str, right: str
) -> None:
    monkeypatch.setenv(wrong, "tiny")
    with pytest.raises(UsageError, match=f"{wrong} is no setting.*rename it to {right}, or unset it"):
        check_variables()
    with pytest.raises(UsageError, match=wrong):
        prepare(str(tmp_path), str(tmp_path / "out"), RunSettings(model="none"))
    with pytest.raises(UsageError, match=wrong):
        rtprune.read(tmp_path / "a.pdf", model="mini")


def test_settings_and_the_variables_of_others_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RTPRUNE_MODE", "RTPRUNE_LOG_LEVEL", "RTPRUNE_TEST_DATA", "RTPRUNE_IMAGE", "RTPRUNED_MODE", "MODE"):
        monkeypatch.setenv(name, "tiny")
    check_variables()
