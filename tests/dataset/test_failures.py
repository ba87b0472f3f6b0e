"""Which failures a summary names."""

from __future__ import annotations

import random

from rtprune.dataset import DocumentRow, PageRow, first_failures
from rtprune.dataset.failures import NAMED, FailureRow, first_failures_in
from rtprune.dataset.schema import PAGES, page_table
from rtprune.errors import Reason


def page(number: int, uri: str = "s3://in/b.pdf", reason: Reason | None = Reason.DAMAGED) -> PageRow:
    return PageRow("d", uri, number, "failed", "mini", reason=reason, message="torn")


def refused(uri: str, reason: Reason) -> DocumentRow:
    return DocumentRow(uri, "1", 3, "failed", reason=reason, message="no")


def test_a_failure_says_what_where_why_and_whether_another_try_may_help() -> None:
    assert FailureRow.of(page(7)) == FailureRow("s3://in/b.pdf", 7, "damaged", "torn", passing=False)
    away = FailureRow.of(refused("s3://in/a.pdf", Reason.UNREACHABLE))
    assert away == FailureRow("s3://in/a.pdf", None, "unreachable", "no", passing=True)
    assert FailureRow.of(page(1, reason=None)).reason == "unknown"


def test_documents_come_first_then_pages_then_files_that_are_no_documents() -> None:
    rows = [
        refused("s3://in/a.txt", Reason.NOT_A_DOCUMENT),
        page(10),
        page(9),
        page(1, "s3://in/c.pdf"),
        refused("s3://in/z.pdf", Reason.ENCRYPTED),
        refused("s3://in/y.pdf", Reason.DAMAGED),
    ]
    first = first_failures(map(FailureRow.of, rows))
    assert [(row.uri[5:], row.page) for row in first] == [
        ("in/y.pdf", None),
        ("in/z.pdf", None),
        ("in/b.pdf", 9),
        ("in/b.pdf", 10),
        ("in/c.pdf", 1),
        ("in/a.txt", None),
    ]


def test_the_first_of_parts_are_the_first_of_all() -> None:
    rows = [page(number, f"s3://in/{number % 7}.pdf") for number in range(1, 101)]
    random.Random(5).shuffle(rows)
    whole = first_failures(map(FailureRow.of, rows))
    found: tuple[FailureRow, ...] = ()
    for start in range(0, 100, 9):
        table = page_table(rows[start : start + 9], run_id="r1", config_hash="c")
        found = first_failures((*found, *first_failures_in(table)))
    assert found == whole
    assert [row.page for row in whole] == [7 * factor for factor in range(1, NAMED + 1)]


def test_a_table_without_failures_has_none() -> None:
    well = [PageRow("d", "s3://in/b.pdf", 1, "ok", "mini")]
    assert first_failures_in(page_table(well, run_id="r1", config_hash="c")) == ()
    assert first_failures_in(PAGES.empty_table()) == ()
