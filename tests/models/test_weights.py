"""A checkpoint's tensors are read and written whole; what does not fit is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rtprune.errors import ModelError
from rtprune.models.files import read_shapes
from rtprune.models.weights import read_tensors, require_fit, save_tensors


def test_tensors_of_all_files_are_read(tensor_folder: Path) -> None:
    assert read_shapes(tensor_folder) == {"a": (4,), "b": (2, 3), "c": (1,)}
    tensors = read_tensors(tensor_folder)
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == read_shapes(tensor_folder)
    assert tensors["c"].dtype == torch.bfloat16
    assert tensors["c"].item() == 0.5


def test_tensors_that_share_memory_are_written_whole(tmp_path: Path) -> None:
    base = torch.arange(6.0).reshape(2, 3)
    save_tensors({"base": base, "turned": base.T}, tmp_path / "x.safetensors", torch.float32)
    assert torch.equal(read_tensors(tmp_path)["turned"], base.T)


def test_tensors_that_fit_are_accepted_and_unused_ones_may_be_there(tmp_path: Path) -> None:
    require_fit(tmp_path, {"a": (1,)}, {"a": (1,)}, {"spare"})
    require_fit(tmp_path, {"a": (1,), "spare": (9,)}, {"a": (1,)}, {"spare"})


def test_every_kind_of_misfit_is_counted_and_named(tmp_path: Path) -> None:
    needed = {f"needed.{index}": (1,) for index in range(5)} | {"both": (2, 3)}
    with pytest.raises(ModelError) as caught:
        require_fit(tmp_path, {"both": (3, 2), "other": (1,)}, needed)
    message = str(caught.value)
    assert str(tmp_path) in message
    assert "5 tensors missing: needed.0, needed.1, needed.2, ..." in message
    assert "1 tensors unexpected: other" in message
    assert "1 tensors of another shape: both [3, 2] instead of [2, 3]" in message
    assert caught.value.hint
