"""Where objects have changed, the current pages are those of their last version, each once."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtprune.dataset import DocumentRow, Output, commit_unit, compact_dataset, read_documents, read_pages
from rtprune.dataset.export import export_dataset
from rtprune.dataset.sql import query
from rtprune.errors import Reason
from tests.dataset.samples import document, plan, rows_of


def read(output: Output, *documents: DocumentRow) -> None:
    """Plan documents and read them."""
    for unit in plan(output, documents, unit_pages=2, run_id="r1"):
        commit_unit(output, unit, rows_of(unit), "r1")


def pages(output: Output) -> list[tuple[str, int]]:
    """Document and page of the current pages, which SQL and Python see alike."""
    table = read_pages(output, ["doc_id", "page"], current=True)
    found = sorted(zip(table.column("doc_id").to_pylist(), table.column("page").to_pylist(), strict=True))
    with query(output, "SELECT doc_id, page FROM current_pages ORDER BY doc_id, page") as answer:
        assert list(answer.rows) == found
    return found


def expected(*documents: DocumentRow) -> list[tuple[str, int]]:
    return sorted((str(each.doc_id), page) for each in documents for page in range(1, (each.pages or 0) + 1))


def failed(name: str, version: str) -> DocumentRow:
    return DocumentRow(f"s3://in/{name}.pdf", version, 9, "failed", reason=Reason.DAMAGED, message="torn")


def test_of_three_versions_the_last_one_is_current(output: Output) -> None:
    versions = [document("a", count, version=str(count), content=f"a{count}") for count in (3, 5, 2)]
    other = document("b", 2)
    read(output, versions[0], other)
    assert pages(output) == expected(versions[0], other)
    for version in versions[1:]:
        read(output, version)
    assert pages(output) == expected(versions[2], other)
    assert len(read_pages(output)) == 3 + 5 + 2 + 2, "all versions are kept"
    rows = read_documents(output, current=True).select(["uri", "version"]).to_pylist()
    assert rows == [{"uri": "s3://in/b.pdf", "version": "1"}, {"uri": "s3://in/a.pdf", "version": "2"}]
    compact_dataset(output)
    assert pages(output) == expected(versions[2], other)


def test_bytes_that_another_object_still_has_are_current(output: Output) -> None:
    first, copy = document("a", 3), document("copy", 3, content="a")
    read(output, first, copy)
    assert pages(output) == expected(first)
    changed = document("a", 2, version="2", content="new")
    read(output, changed)
    assert pages(output) == expected(first, changed)
    read(output, document("copy", 2, version="2", content="new"))
    assert pages(output) == expected(changed)


def test_an_object_that_cannot_be_opened_any_more_has_no_current_pages(output: Output) -> None:
    read(output, document("a", 3), document("b", 2))
    read(output, failed("a", "2"))
    assert pages(output) == expected(document("b", 2))
    restored = document("a", 1, version="3", content="restored")
    read(output, restored)
    assert pages(output) == expected(document("b", 2), restored)


def test_an_export_writes_current_documents_under_the_names_of_objects_that_hold_them(
    output: Output, tmp_path: Path
) -> None:
    first = document("a", 1)
    changed = document("a", 2, version="2", content="new")
    read(output, first, document("copy", 1, content="a"))
    read(output, changed)
    exported = export_dataset(output, tmp_path / "text")
    assert (exported.written, exported.lacking) == (2, 0)
    names = sorted(path.name for path in (tmp_path / "text").iterdir())
    assert names == sorted([f"a.pdf-{str(changed.doc_id)[:16]}.md", f"copy.pdf-{str(first.doc_id)[:16]}.md"])


@pytest.mark.parametrize("current", [False, True])
def test_an_empty_dataset_has_no_pages(output: Output, current: bool) -> None:
    assert read_pages(output, ["uri"], current=current).num_rows == 0
    assert read_documents(output, current=current).num_rows == 0
