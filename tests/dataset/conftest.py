"""Every promise of the dataset is tried on a local folder and in an object store."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtprune.dataset import Output
from tests.dataset.samples import CONFIG


@pytest.fixture(params=["local", "store"])
def output_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where there is no dataset yet."""
    if request.param == "local":
        return str(tmp_path / "out")
    return f"{request.getfixturevalue('bucket')}/out"


@pytest.fixture
def output(output_uri: str) -> Output:
    """A fresh dataset without plans."""
    return Output.open(output_uri, CONFIG)
