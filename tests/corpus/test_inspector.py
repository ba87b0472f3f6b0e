"""What looking into objects gives: a row each, whatever they are."""

from __future__ import annotations

import hashlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rtprune.corpus import inspector
from rtprune.corpus.inspector import BATCH_BYTES, BATCH_OBJECTS, Inspector, batches
from rtprune.documents import Document, SourceObject, list_objects, open_document, read_object
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
    source = SourceObject(uri="s3://bucket/a.pdf", size=1, version="v")
    with pytest.raises(StoreError):
        Inspector(None, max_attempts=2).work((source,), 1)
    (row,) = Inspector(None, max_attempts=2).work((source,), 2)
    assert (row.status, row.reason) == ("failed", "unreachable")


def test_an_object_out_of_reach_is_the_only_failed_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        write_pdf(tmp_path / f"{name}.pdf", 1, name)

    def read(uri: str) -> bytes:
        if uri.endswith("b.pdf"):
            raise StoreError(f"the store did not answer for {uri}")
        return read_object(uri)

    monkeypatch.setattr(inspector, "read_object", read)
    assert look(tmp_path, attempt=2) == [("ok", None, 1), ("failed", "unreachable", None), ("ok", None, 1)]


def test_objects_of_two_batches_are_fetched_at_once_and_opened_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(12):
        write_pdf(tmp_path / f"{number:02d}.pdf", 1, str(number))
    objects = tuple(list_objects(str(tmp_path)))
    all_asked = threading.Barrier(len(objects), timeout=60)
    opening = threading.Lock()

    def read(uri: str) -> bytes:
        all_asked.wait()
        return read_object(uri)

    def opened(*given: Any) -> Document:
        assert opening.acquire(blocking=False), "two documents are opened at once"
        try:
            time.sleep(0.01)
            return open_document(*given)
        finally:
            opening.release()

    monkeypatch.setattr(inspector, "read_object", read)
    monkeypatch.setattr(inspector, "open_document", opened)
    actor = Inspector(None, max_attempts=2)
    with ThreadPoolExecutor(2) as threads:
        rows = [row for some in threads.map(actor.work, (objects[:6], objects[6:]), (1, 1)) for row in some]
    assert [(row.uri, row.status) for row in rows] == [(each.uri, "ok") for each in objects]
    assert actor.pulse() == 0


def test_bytes_are_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pdf(tmp_path / "a.pdf", 1)
    sha256, hashed = hashlib.sha256, []

    def counted(data: bytes) -> Any:
        hashed.append(len(data))
        return sha256(data)

    monkeypatch.setattr(hashlib, "sha256", counted)
    assert look(tmp_path) == [("ok", None, 1)]
    assert len(hashed) == 1


def test_batches_keep_order_and_stay_small() -> None:
    objects = [SourceObject(uri=f"s3://b/{number:03d}", size=1, version="v") for number in range(40)]
    large = [SourceObject(uri=f"s3://b/x{number}", size=BATCH_BYTES, version="v") for number in range(3)]
    made = list(batches([*objects, *large]))
    assert [source for batch in made for source in batch] == [*objects, *large]
    assert all(len(batch) <= BATCH_OBJECTS for batch in made)
    assert all(sum(source.size for source in batch) <= BATCH_BYTES for batch in made)
