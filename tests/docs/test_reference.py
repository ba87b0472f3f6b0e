"""What is generated into the pages is what the code says now."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rtprune.report.reference import PARTS, renewed
from tests.corpus.test_requests import TABLE
from tests.docs.pages import PAGES, REPOSITORY, name


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_generated_tables_are_current(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text == renewed(text), "run `python -m rtprune.report.reference docs`"


@pytest.mark.parametrize("part", PARTS)
def test_every_generated_table_stands_on_a_page(part: str) -> None:
    assert [page for page in PAGES if f"<!-- begin {part} -->" in page.read_text(encoding="utf-8")]


def test_the_table_of_requests_is_the_one_that_is_counted() -> None:
    page = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) \| (\d+) \| (\d+) \| (\d+) \|", page, re.MULTILINE)
    assert {about: tuple(map(int, numbers)) for about, *numbers in rows} == TABLE
