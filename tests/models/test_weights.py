"""A checkpoint's files are read, told apart and refused with a message that names what is wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from rtprune.errors import ModelError
from rtprune.models import weights
from rtprune.models.weights import fingerprint, read_shapes, read_tensors, require_fit, save_tensors


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_tensors({"b": torch.ones(2, 3), "a": torch.zeros(4)}, tmp_path / "one.safetensors", torch.float32)
    save_tensors({"c": torch.full((1,), 0.5)}, tmp_path / "two.safetensors", torch.bfloat16)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("{}")
    return tmp_path


def test_tensors_of_all_files_are_read(folder: Path) -> None:
    assert read_shapes(folder) == {"a": (4,), "b": (2, 3), "c": (1,)}
    tensors = read_tensors(folder)
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == read_shapes(folder)
    assert tensors["c"].dtype == torch.bfloat16
    assert tensors["c"].item() == 0.5


def test_tensors_that_share_memory_are_written_whole(tmp_path: Path) -> None:
    base = torch.arange(6.0).reshape(2, 3)
    save_tensors({"base": base, "turned": base.T}, tmp_path / "x.safetensors", torch.float32)
    assert torch.equal(read_tensors(tmp_path)["turned"], base.T)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no \*\.safetensors"):
        read_shapes(tmp_path)


def test_a_damaged_file_is_named(folder: Path) -> None:
    damaged = folder / "two.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:20])
    with pytest.raises(ModelError, match=r"two\.safetensors is not a readable safetensors file"):
        read_shapes(folder)


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


def test_the_fingerprint_follows_the_bytes_and_not_the_place(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path_factory.mktemp("elsewhere") / "copy"))
    assert fingerprint(copy) == fingerprint(folder)
    save_tensors({"c": torch.full((1,), 0.25)}, copy / "two.safetensors", torch.bfloat16)
    assert fingerprint(copy) != fingerprint(folder)


def test_the_fingerprint_of_sampled_files_sees_shape_and_content(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_WHOLE", 2**16)
    save_tensors({"big": torch.zeros(2**20)}, folder / "big.safetensors", torch.float32)
    zeros = fingerprint(folder)
    save_tensors({"big": torch.zeros(2**10, 2**10)}, folder / "big.safetensors", torch.float32)
    reshaped = fingerprint(folder)
    save_tensors({"big": torch.ones(2**10, 2**10)}, folder / "big.safetensors", torch.float32)
    assert len({zeros, reshaped, fingerprint(folder)}) == 3


def test_a_folder_without_tokenizer_has_no_fingerprint(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"holds no tokenizer\.json"):
        fingerprint(folder)
