"""What is to be read: documents cut into units, and the files of the plan that say so.

The plan is a log of files that are created only if absent and never changed, so that units keep their ids whatever is
killed, and whoever resumes finds the same work. File N covers objects (URI and version) that no earlier file covers,
and those that an earlier one has as failed and that open now, or fail for another reason: its rows supersede theirs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import pyarrow as pa
import pyarrow.parquet as pq

from rtprune.dataset.schema import DOCUMENTS, DocumentRow, document_table
from rtprune.errors import RTPruneError


@dataclass(frozen=True, slots=True)
class PageSlice:
    """Pages ``first_page`` to ``last_page`` (from 1, both included) of one document.

    ``copies`` are URIs of other objects that had the same bytes when they were planned.
    """

    doc_id: str
    uri: str
    first_page: int
    last_page: int
    copies: tuple[str, ...] = ()

    @property
    def page_count(self) -> int:
        """Number of pages in the slice."""
        return self.last_page - self.first_page + 1


@dataclass(frozen=True, slots=True)
class Unit:
    """Pages that are committed together, in one file."""

    unit_id: str
    slices: tuple[PageSlice, ...]

    @property
    def page_count(self) -> int:
        """Number of pages in the unit."""
        return sum(piece.page_count for piece in self.slices)

    def pages(self) -> Iterator[tuple[str, int]]:
        """(``doc_id``, page) of every page of the unit, in reading order."""
        for piece in self.slices:
            for page in range(piece.first_page, piece.last_page + 1):
                yield piece.doc_id, page

    def page_slice(self, index: int) -> PageSlice:
        """The page that comes ``index``-th in ``pages()``, alone. Raises ``IndexError`` when there is none."""
        for piece in self.slices:
            if 0 <= index < piece.page_count:
                return replace(piece, first_page=piece.first_page + index, last_page=piece.first_page + index)
            index -= piece.page_count
        raise IndexError(f"unit {self.unit_id} has {self.page_count} pages")


def plan_units(documents: Iterable[DocumentRow], config_hash: str, unit_pages: int) -> tuple[Unit, ...]:
    """Cut the documents with status "ok" into units of at most ``unit_pages`` pages.

    Pure: the same documents, in any order and on any machine, give the same units with the same ids. Documents are
    taken in order of URI; the same bytes (``doc_id``) are planned once. A document is divided only if it has more than
    ``unit_pages`` pages, so that small ones are fetched by one worker.

    Raises:
        ValueError: ``unit_pages`` below 1, or an "ok" document without ``doc_id`` or pages.
    """
    if unit_pages < 1:
        raise ValueError(f"unit_pages must be at least 1, not {unit_pages}")
    units: list[Unit] = []
    open_slices: list[PageSlice] = []
    room = unit_pages
    for piece in _slices(without_repeats(documents), unit_pages):
        if piece.page_count > room:
            units.append(_unit(open_slices, config_hash))
            open_slices, room = [], unit_pages
        open_slices.append(piece)
        room -= piece.page_count
    if open_slices:
        units.append(_unit(open_slices, config_hash))
    return tuple(units)


def without_repeats(documents: Iterable[DocumentRow], planned: Collection[str] = ()) -> list[DocumentRow]:
    """The documents in order of URI, each object once; those whose bytes were met before become duplicates.

    Args:
        planned: which ``doc_id`` are planned already.
    """
    seen: set[str] = set(planned)
    objects: dict[tuple[str, str], DocumentRow] = {}
    for row in sorted(documents, key=lambda row: (row.uri, row.version)):
        if (row.uri, row.version) in objects:
            continue
        if row.status == "ok":
            if row.doc_id is None or row.pages is None or row.pages < 1:
                raise ValueError(f"document {row.uri} has status 'ok' but no doc_id or no pages")
            if row.doc_id in seen:
                row = replace(row, status="duplicate")
            seen.add(row.doc_id or "")
        objects[row.uri, row.version] = row
    return list(objects.values())


def _slices(documents: Iterable[DocumentRow], unit_pages: int) -> Iterator[PageSlice]:
    for row in documents:
        if row.status == "ok" and row.doc_id is not None and row.pages is not None:
            for first in range(1, row.pages + 1, unit_pages):
                yield PageSlice(row.doc_id, row.uri, first, min(first + unit_pages - 1, row.pages))


def _unit(slices: Sequence[PageSlice], config_hash: str) -> Unit:
    """The unit's id is made of what decides its rows' content: bytes, page ranges and configuration; not of places."""
    content = [config_hash, [[piece.doc_id, piece.first_page, piece.last_page] for piece in slices]]
    return Unit(hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24], tuple(slices))


#: The columns of a file of the plan: documents, and for each the unit that every ``unit_pages`` of its pages are in.
PLAN = DOCUMENTS.append(
    pa.field(
        "slices",
        pa.list_(pa.struct([("unit_id", pa.string()), ("first_page", pa.int32()), ("last_page", pa.int32())])),
        nullable=False,
    )
)


def make_plan(
    documents: Sequence[DocumentRow], *, unit_pages: int, run_id: str, config_hash: str, discovered_at: datetime
) -> pa.Table:
    """``documents``, without repeats, and their units as a table of schema ``PLAN``."""
    slices: dict[str, list[tuple[str, int, int]]] = {}
    for unit in plan_units(documents, config_hash, unit_pages):
        for piece in unit.slices:
            slices.setdefault(piece.doc_id, []).append((unit.unit_id, piece.first_page, piece.last_page))
    table = document_table(documents, run_id=run_id, config_hash=config_hash, discovered_at=discovered_at)
    column = [slices[row.doc_id or ""] if row.status == "ok" else [] for row in documents]
    return table.append_column(PLAN.field("slices"), pa.array(column, PLAN.field("slices").type))


def plan_table(data: bytes, uri: str) -> pa.Table:
    """The table in a file of the plan. Raises ``RTPruneError`` naming ``uri`` when it is not one."""
    try:
        table = pq.read_table(pa.BufferReader(data))
        return table.select(PLAN.names).cast(PLAN)
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise RTPruneError(
            f"{uri} is not a plan of this version of rtprune", "restore it from a backup, or start a new OUTPUT"
        ) from error


def documents_of(plan: pa.Table) -> pa.Table:
    """The ``documents`` rows in a file of the plan."""
    return plan.select(DOCUMENTS.names).cast(DOCUMENTS)


def units_of(plan: pa.Table) -> pa.Table:
    """The slices in a file of the plan, in order, and for each the number of its unit within the plan, from 0.

    Columns: ``unit`` (int64), ``unit_id``, ``object`` (int64, the row of its document), ``first_page``, ``last_page``.
    """
    column = plan.column("slices").combine_chunks()
    slices = column.flatten()
    ids = slices.field("unit_id")
    # a unit's slices stand one after the other, because units are filled in the order of the documents
    numbers = ids.dictionary_encode().indices.cast(pa.int64())
    return pa.table(
        {
            "unit": numbers,
            "unit_id": ids,
            "object": column.value_parent_indices(),
            "first_page": slices.field("first_page"),
            "last_page": slices.field("last_page"),
        }
    )
