"""The worker that looks into objects: documents or not, which bytes, how many pages; a crash costs its process only."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from rtprune.dataset import DocumentRow
from rtprune.documents import SourceObject, open_document, read_object
from rtprune.errors import DocumentError, Reason, StoreError

BATCH_OBJECTS = 32
BATCH_BYTES = 64 * 2**20
FETCH_THREADS = 32

Batch = tuple[SourceObject, ...]


class Inspector:
    """Ray actor (see ``rtprune.corpus.pool``) whose units are batches of objects and whose results are their rows.

    A batch's objects are fetched all at once. ``work`` may be called from two threads, so that the objects of the next
    batch are fetched while those of one are opened. Memory: at most ``BATCH_BYTES`` for each batch, or one object.
    """

    def __init__(self, password: str | None, max_attempts: int) -> None:
        self._password = password
        self._max_attempts = max_attempts
        self._fetchers = ThreadPoolExecutor(FETCH_THREADS, "fetch")
        self._opening = threading.Lock()  # PyMuPDF is not thread safe
        self._counting = threading.Lock()
        self._done = 0

    def ready(self) -> None:
        """Nothing to load."""

    def prepare(self, batch: Batch) -> None:
        """Nothing is done ahead."""

    def pulse(self) -> int:
        """Objects that are done, of the batches at hand."""
        return self._done

    def work(self, batch: Batch, attempt: int) -> tuple[DocumentRow, ...]:
        """One row per object, in order.

        Raises:
            StoreError: an object could not be fetched and trying again may help; on the last attempt it gets a row.
        """
        fetches = deque(self._fetchers.submit(_fetch, each) for each in batch)
        rows: list[DocumentRow] = []
        try:
            for each in batch:
                rows.append(self._row(each, fetches.popleft(), last=attempt >= self._max_attempts))
                self._count(1)
        finally:
            self._count(-len(rows))
            for fetch in fetches:
                fetch.cancel()
        return tuple(rows)

    def _row(self, source: SourceObject, fetch: Future[tuple[bytes, str]], *, last: bool) -> DocumentRow:
        doc_id = None
        try:
            data, doc_id = fetch.result()
            with self._opening:
                document = open_document(source.uri, data, self._password, doc_id)
        except DocumentError as error:
            return refused_row(source, error.reason, str(error), doc_id)
        except StoreError as error:
            if not last:
                raise
            return refused_row(source, Reason.UNREACHABLE, str(error))
        return DocumentRow(
            uri=source.uri,
            version=source.version,
            size=source.size,
            status="ok",
            doc_id=document.doc_id,
            kind=document.kind,
            pages=document.page_count,
        )

    def _count(self, objects: int) -> None:
        with self._counting:
            self._done += objects


def _fetch(source: SourceObject) -> tuple[bytes, str]:
    """The object's bytes and their SHA-256."""
    data = read_object(source.uri)
    return data, hashlib.sha256(data).hexdigest()


def refused_row(source: SourceObject, reason: Reason, message: str, doc_id: str | None = None) -> DocumentRow:
    """The row of an object that cannot be opened as a document; ``doc_id`` where its bytes could be read."""
    return DocumentRow(
        uri=source.uri,
        version=source.version,
        size=source.size,
        status="failed",
        doc_id=doc_id,
        reason=reason,
        message=message,
    )


def batches(objects: Iterable[SourceObject]) -> Iterator[Batch]:
    """``objects`` in their order, a few at a time, large ones alone."""
    batch: list[SourceObject] = []
    total = 0
    for source in objects:
        if batch and (len(batch) == BATCH_OBJECTS or total + source.size > BATCH_BYTES):
            yield tuple(batch)
            batch, total = [], 0
        batch.append(source)
        total += source.size
    if batch:
        yield tuple(batch)
