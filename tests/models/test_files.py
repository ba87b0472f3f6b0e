"""A checkpoint's files are looked at without torch, told apart, and refused by name where they are damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from rtprune.errors import ModelError
from rtprune.models import files
from rtprune.models.files import fingerprint, read_shapes
from rtprune.models.weights import save_tensors


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no \*\.safetensors"):
        read_shapes(tmp_path)


def test_a_damaged_file_is_named(tensor_folder: Path) -> None:
    damaged = tensor_folder / "two.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:20])
    with pytest.raises(ModelError, match=r"two\.safetensors is not a readable safetensors file"):
        read_shapes(tensor_folder)


def test_the_fingerprint_follows_the_bytes_and_not_the_place(
    tensor_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    copy = Path(shutil.copytree(tensor_folder, tmp_path_factory.mktemp("elsewhere") / "copy"))
    assert fingerprint(copy) == fingerprint(tensor_folder)
    save_tensors({"c": torch.full((1,), 0.25)}, copy / "two.safetensors", torch.bfloat16)
    assert fingerprint(copy) != fingerprint(tensor_folder)


def test_the_fingerprint_of_sampled_files_sees_shape_and_content(
    tensor_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_WHOLE", 2**16)
    save_tensors({"big": torch.zeros(2**20)}, tensor_folder / "big.safetensors", torch.float32)
    zeros = fingerprint(tensor_folder)
    save_tensors({"big": torch.zeros(2**10, 2**10)}, tensor_folder / "big.safetensors", torch.float32)
    reshaped = fingerprint(tensor_folder)
    save_tensors({"big": torch.ones(2**10, 2**10)}, tensor_folder / "big.safetensors", torch.float32)
    assert len({zeros, reshaped, fingerprint(tensor_folder)}) == 3


def test_a_folder_without_tokenizer_has_no_fingerprint(tensor_folder: Path) -> None:
    (tensor_folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"holds no tokenizer\.json"):
        fingerprint(tensor_folder)
