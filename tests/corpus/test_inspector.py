"""What looking into objects gives: a row each, whatever they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtprune.corpus import inspector
from rtprune.corpus.inspector import BATCH_BYTES, BATCH_OBJECTS, Inspector, batches
from rtprune.documents import SourceObject, list_objects
from rtprune.errors import StoreError
from tests.sources import write_pdf


def look(path: Path, attempt: int = 1) -> list[tuple[str, str | None, int | None]]:
    rows = Inspector(None, max_attempts=2).work(tuple(list_objects(str(path))), attempt)
    return [(row.status, row.reason, row.pages) for row in rows]


def test_a_document_has_its_hash_and_pages(tmp_path: Path) -> None:
    write_pdf(tmp_path / "a.pdf", 3)
    (row,) = Inspector(None, 2).work(tuple(list_objects(str(tmp_path))), 1)
    assert (row.status, row.kind, row.pages) == ("ok", "pdf", 3)
    assert row.doc_id is not None
    assert len(row.doc_id) == 64


def test_what_is_no_document_is_a_row_with_a_reason(tmp_path: Path) -> None:
    write_pdf(tmp_path / "a.pdf", 1)
    (tmp_path / "b.pdf").write_bytes(b"no document at all")
    assert look(tmp_path) == [("ok", None, 1), ("failed", "not-a-document", None)]


def test_an_object_out_of_reach_is_tried_again_before_it_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(uri: str) -> bytes:
        raise StoreError(f"the store did not answer for {uri}")

    monkeypatch.setattr(inspector, "read_object", away)
    found = SourceObject(uri="s3://bucket/a.pdf", size=1, version="v")
    with pytest.raises(StoreError):
        Inspector(None, max_attempts=2).work((found,), 1)
    (row,) = Inspector(None, max_attempts=2).work((found,), 2)
    assert (row.status, row.reason) == ("failed", "unreachable")


def test_batches_keep_order_and_stay_small() -> None:
    objects = [SourceObject(uri=f"s3://b/{number:03d}", size=1, version="v") for number in range(40)]
    large = [SourceObject(uri=f"s3://b/x{number}", size=BATCH_BYTES, version="v") for number in range(3)]
    made = list(batches([*objects, *large]))
    assert [found for batch in made for found in batch] == [*objects, *large]
    assert all(len(batch) <= BATCH_OBJECTS for batch in made)
    assert all(sum(found.size for found in batch) <= BATCH_BYTES for batch in made)
