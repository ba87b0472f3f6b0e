"""What tests of several model families need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import pytest
import torch

from rtprune.models import load_model
from tests.models.families import Case, Reader, write_case


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Networks as small as these gain nothing by threads, and lose much where cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
