"""SQL sees each page once, whatever files it lies in, and says what is wrong with a question."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rtprune.dataset import DocumentRow, Output, commit_unit, compact_dataset
from rtprune.dataset.sql import TABLES, query
from rtprune.errors import Reason, RTPruneError, UsageError
from rtprune.store import find, get, join, put
from tests.dataset.samples import document, plan, rows_of


def rows(output: Output, statement: str) -> list[tuple[object, ...]]:
    with query(output, statement) as answer:
        return list(answer.rows)


@pytest.fixture
def filled(output: Output) -> Output:
    """Two documents of five and four pages, one of which failed, and one that could not be opened."""
    away = DocumentRow("s3://in/away.pdf", "1", 10, "failed", reason=Reason.UNREACHABLE, message="no answer")
    for unit in plan(output, [document("a", 5), document("b", 4), away], unit_pages=3, run_id="r1"):
        read = rows_of(unit)
        if unit.slices[0].first_page == 4 and read[0].uri == "s3://in/a.pdf":
            read[0] = replace(read[0], status="failed", text=None, reason=Reason.DAMAGED, message="torn")
        commit_unit(output, unit, read, "r1")
    return output


def test_each_page_is_there_once_before_and_after_a_compaction(filled: Output) -> None:
    counted = "SELECT uri, count(*), count(DISTINCT page) FROM pages GROUP BY uri ORDER BY uri"
    expected = [("s3://in/a.pdf", 5, 5), ("s3://in/b.pdf", 4, 4)]
    assert rows(filled, counted) == expected
    assert compact_dataset(filled).made == 1
    assert rows(filled, counted) == expected


def test_failures_and_savings_are_counted(filled: Output) -> None:
    assert rows(filled, "SELECT uri, page, reason FROM failures ORDER BY page NULLS FIRST") == [
        ("s3://in/away.pdf", None, "unreachable"),
        ("s3://in/a.pdf", 4, "damaged"),
    ]
    asked = "SELECT uri, pages, visual_tokens_before, visual_tokens_after, saved_share FROM savings ORDER BY uri"
    first, second = rows(filled, asked)
    assert first == ("s3://in/a.pdf", 5, 5 * 73, 5 * 60, pytest.approx(13 / 73))
    assert second == ("s3://in/b.pdf", 4, 4 * 73, 4 * 60, pytest.approx(13 / 73))


@pytest.mark.parametrize("table", TABLES)
def test_every_table_is_there_before_anything_was_read(output: Output, table: str) -> None:
    with query(output, f"SELECT * FROM {table}") as answer:
        assert list(answer.rows) == []
        assert answer.columns


@pytest.mark.parametrize(
    "statement", ["SELEKT 1", "SELECT nothing FROM pages", "SELECT CAST(uri AS INTEGER) FROM pages", ""]
)
def test_what_duckdb_refuses_is_a_usage_error_that_names_the_tables(filled: Output, statement: str) -> None:
    with pytest.raises(UsageError) as caught:
        rows(filled, statement)
    assert ", ".join(TABLES) in str(caught.value)


@pytest.mark.parametrize("keep", [0, 40, 0.5])
def test_a_damaged_file_of_the_dataset_is_no_fault_of_the_question(filled: Output, keep: float) -> None:
    uri = find(join(filled.uri, "pages"), ".parquet")[0]
    content = get(uri)
    put(uri, content[: int(len(content) * keep) if keep < 1 else int(keep)])
    with pytest.raises(RTPruneError, match="a file cannot be read") as raised:
        rows(filled, "SELECT sum(length(text)) FROM pages")
    assert not isinstance(raised.value, UsageError)
    assert "rtprune verify" in str(raised.value)
