"""What is generated into the pages is what the code says now."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtprune.report.reference import PARTS, renewed
from tests.docs.pages import PAGES, name


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_generated_tables_are_current(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text == renewed(text), "run `python -m rtprune.report.reference docs`"


@pytest.mark.parametrize("part", PARTS)
def test_every_generated_table_stands_on_a_page(part: str) -> None:
    assert [page for page in PAGES if f"<!-- begin {part} -->" in page.read_text(encoding="utf-8")]
