"""A run of which more fails than may is told from one that went well."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from rtprune.corpus.failures import exceeds, too_many_failed
from rtprune.corpus.values import Planned, Tally
from rtprune.settings import RunSettings


@pytest.mark.parametrize(
    ("limit", "failed", "total", "too_many"),
    [
        ("10%", 0, 0, False),
        ("10%", 1, 10, False),
        ("10%", 2, 10, True),
        ("0%", 0, 10, False),
        ("0%", 1, 1000, True),
        ("2.5%", 25, 1000, False),
        ("2.5%", 26, 1000, True),
        ("100%", 7, 7, False),
        ("0", 1, 1000, True),
        ("3", 3, 3, False),
        ("3", 4, 4000, True),
    ],
)
def test_a_limit_is_a_share_or_a_number(limit: str, failed: int, total: int, too_many: bool) -> None:
    assert exceeds(limit, failed, total) is too_many


def test_pages_and_documents_are_held_against_the_limit_each() -> None:
    assert too_many_failed("10%", Planned(10, 1), Tally(pages=10, failed=1)) is None
    pages = too_many_failed("10%", Planned(10, 1), Tally(pages=1000, failed=101))
    assert pages == "101 of 1,000 pages failed, more than the 10% that may (--max-failed)"
    documents = too_many_failed("10%", Planned(10, 2), Tally(pages=10))
    assert documents == "2 of 10 documents failed, more than the 10% that may (--max-failed)"


def test_files_that_are_no_documents_count_on_neither_side() -> None:
    assert too_many_failed("10%", Planned(20, 11, not_documents=10), Tally()) is None
    assert too_many_failed("10%", Planned(19, 11, not_documents=10), Tally()) is not None


@pytest.mark.parametrize("wrong", ["", "-1", "ten", "5 %", "%", "1.5"])
def test_what_is_neither_is_refused(wrong: str) -> None:
    with pytest.raises(ValidationError):
        RunSettings(max_failed=wrong)


def test_a_number_may_be_given_as_one() -> None:
    assert RunSettings(max_failed=5).max_failed == "5"
