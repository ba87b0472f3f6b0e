"""What tests of several model families need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

from rtprune.models import load_model
from rtprune.models.weights import save_tensors
from tests.models.families import Case, Reader, write_case


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Networks as small as these gain nothing by threads, and lose much where cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tensor_folder(tmp_path: Path) -> Path:
    """A checkpoint folder with three tensors in two files, and nothing to say of a model."""
    save_tensors({"b": torch.ones(2, 3), "a": torch.zeros(4)}, tmp_path / "one.safetensors", torch.float32)
    save_tensors({"c": torch.full((1,), 0.5)}, tmp_path / "two.safetensors", torch.bfloat16)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("{}")
    return tmp_path


@pytest.fixture(scope="session")
def reader_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], Reader]:
    """A family's small model and its pages, made once."""

    @cache
    def made(case: Case) -> Reader:
        folder = write_case(tmp_path_factory.mktemp(case.name), case)
        model = load_model(str(folder), device="cpu")
        assert isinstance(model, case.family)
        pages = case.pages()
        views = [model.prepare(page, case.mode) for page in pages]
        return Reader(case, folder, model, pages, views, model.encode(views))

    return made
