"""`rtprune bench prune` measures every mode, alone and beside a model's prefill."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rtprune.cli import main


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """The command sets how many threads compute; other tests have theirs back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_measurements_are_json_with_every_mode(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "prune", "--json", "--repeats", "1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["modes"].keys() == {"tiny", "small", "base", "large", "gundam"}
    for cost in found["modes"].values():
        assert 0 < cost["ours"]["min"] <= cost["ours"]["median"] <= cost["ours"]["max"]
        assert cost["tokens_after"] < cost["tokens_before"]
        assert cost["prefill_unpruned"] is None


def test_a_models_own_prefill_is_measured(random_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "prune", "--model", str(random_checkpoint), "--repeats", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "prefill" in lines[1]
    assert len(lines) == 7
    assert all(line.endswith("x") for line in lines[2:])
