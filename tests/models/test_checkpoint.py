"""A model's name leads to a folder that holds it, or to an error that says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtprune.errors import ModelError
from rtprune.models.checkpoint import resolve


def test_a_local_folder_is_used_where_it_lies(random_checkpoint: Path) -> None:
    checkpoint = resolve(str(random_checkpoint))
    assert checkpoint.folder == random_checkpoint
    assert checkpoint.config["model_type"] == "deepseek_vl_v2"
    assert checkpoint.commit is None


def test_a_folder_without_configuration_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        resolve(str(tmp_path))
