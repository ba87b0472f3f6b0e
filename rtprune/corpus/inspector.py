"""The worker that looks into objects: documents or not, which bytes, how many pages; a crash costs its process only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from rtprune.dataset import DocumentRow
from rtprune.documents import SourceObject, open_document, read_object
from rtprune.errors import DocumentError, Reason, StoreError

BATCH_OBJECTS = 16
BATCH_BYTES = 64 * 2**20

Batch = tuple[SourceObject, ...]


class Inspector:
    """Ray actor (see ``rtprune.corpus.pool``) whose units are batches of objects and whose results are their rows."""

    def __init__(self, password: str | None, max_attempts: int) -> None:
        self._password = password
        self._max_attempts = max_attempts
        self._done = 0

    def ready(self) -> None:
        """Nothing to load."""

    def prepare(self, batch: Batch) -> None:
        """Nothing is done ahead."""

    def pulse(self) -> int:
        """Objects of the batch at hand that are done."""
        return self._done

    def work(self, batch: Batch, attempt: int) -> tuple[DocumentRow, ...]:
        """One row per object, in order.

        Raises:
            StoreError: an object could not be fetched and trying again may help; on the last attempt it gets a row.
        """
        self._done = 0
        rows = []
        for found in batch:
            rows.append(self._inspect(found, last=attempt >= self._max_attempts))
            self._done += 1
        return tuple(rows)

    def _inspect(self, found: SourceObject, *, last: bool) -> DocumentRow:
        doc_id = None
        try:
            data = read_object(found.uri)
            doc_id = hashlib.sha256(data).hexdigest()
            document = open_document(found.uri, data, password=self._password)
        except DocumentError as error:
            return refused_row(found, error.reason, str(error), doc_id)
        except StoreError as error:
            if not last:
                raise
            return refused_row(found, Reason.UNREACHABLE, str(error))
        return DocumentRow(
            uri=found.uri,
            version=found.version,
            size=found.size,
            status="ok",
            doc_id=document.doc_id,
            kind=document.kind,
            pages=document.page_count,
        )


def refused_row(found: SourceObject, reason: Reason, message: str, doc_id: str | None = None) -> DocumentRow:
    """The row of an object that cannot be opened as a document; ``doc_id`` where its bytes could be read."""
    return DocumentRow(
        uri=found.uri,
        version=found.version,
        size=found.size,
        status="failed",
        doc_id=doc_id,
        reason=reason,
        message=message,
    )


def batches(objects: Iterable[SourceObject]) -> Iterator[Batch]:
    """``objects`` in their order, a few at a time, large ones alone."""
    batch: list[SourceObject] = []
    total = 0
    for found in objects:
        if batch and (len(batch) == BATCH_OBJECTS or total + found.size > BATCH_BYTES):
            yield tuple(batch)
            batch, total = [], 0
        batch.append(found)
        total += found.size
    if batch:
        yield tuple(batch)
