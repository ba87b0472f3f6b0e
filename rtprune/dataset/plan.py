"""What is to be read: documents cut into work units, kept as an append-only log of plans.

Plan N covers exactly the objects (URI and version) that no earlier plan covers, and those that an earlier one has as
failed and that can be opened now, or fail for another reason; its rows then supersede the earlier ones. It is created
only if absent, so of two runs that plan at once one wins each number and the other plans what is then still new. A plan
is never changed: units keep their ids whatever is killed, and whoever resumes finds the same work.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count, groupby
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rtprune.dataset.layout import Output, check_run_id
from rtprune.dataset.parquet import parquet_bytes
from rtprune.dataset.schema import DOCUMENTS, DocumentRow, document_table, storable
from rtprune.errors import RTPruneError
from rtprune.store import create_if_absent, get, put


@dataclass(frozen=True, slots=True)
class PageSlice:
    """Pages ``first_page`` to ``last_page`` (from 1, both included) of one document."""

    doc_id: str
    uri: str
    first_page: int
    last_page: int

    @property
    def page_count(self) -> int:
        """Number of pages in the slice."""
        return self.last_page - self.first_page + 1


@dataclass(frozen=True, slots=True)
class Unit:
    """What a worker takes at a time and commits in one file."""

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
    for piece in _slices(_classify(documents, frozenset()), unit_pages):
        if piece.page_count > room:
            units.append(_unit(open_slices, config_hash))
            open_slices, room = [], unit_pages
        open_slices.append(piece)
        room -= piece.page_count
    if open_slices:
        units.append(_unit(open_slices, config_hash))
    return tuple(units)


def _classify(documents: Iterable[DocumentRow], known: Collection[bytes]) -> list[DocumentRow]:
    """The documents in order of URI, each object once, those whose bytes were met before marked as duplicates."""
    seen: set[str] = set()
    objects: dict[tuple[str, str], DocumentRow] = {}
    for row in sorted(documents, key=lambda row: (row.uri, row.version)):
        if (row.uri, row.version) in objects:
            continue
        if row.status == "ok":
            if row.doc_id is None or row.pages is None or row.pages < 1:
                raise ValueError(f"document {row.uri} has status 'ok' but no doc_id or no pages")
            if row.doc_id in seen or _brief(row.doc_id) in known:
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


#: A plan file's columns: its documents, and for each the unit that every ``unit_pages`` of its pages went into.
PLAN = DOCUMENTS.append(
    pa.field(
        "slices",
        pa.list_(
            pa.struct([("unit_id", pa.string()), ("first_page", pa.int32()), ("last_page", pa.int32())]),
        ),
        nullable=False,
    )
)


class PlanLog:
    """The plans of one OUTPUT, as loaded, and the way to append to them.

    It knows every object planned, by 16 bytes of a hash: some hundred bytes of memory each, for millions of objects.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._count = 0
        self._failures: dict[bytes, str | None] = {}  # of every object planned; None for those opened
        self._doc_ids: set[bytes] = set()
        self.reload()

    @property
    def count(self) -> int:
        """Number of plans loaded."""
        return self._count

    @property
    def units(self) -> tuple[Unit, ...]:
        """Units of all plans, oldest plan first."""
        return tuple(unit for plan in _plans(self._output) for unit in _units_of(plan))

    def covers(self, uri: str, version: str) -> bool:
        """Whether a plan has this object in this version, so that there is no need to open it again."""
        return _fingerprint(uri, version) in self._failures

    def failure(self, uri: str, version: str) -> str | None:
        """The ``reason`` of an object that is planned but could not be opened, else ``None``."""
        return self._failures.get(_fingerprint(uri, version))

    def reload(self) -> None:
        """Load the plans that were appended since."""
        for _ in self._new_plans():
            pass

    def _new_plans(self) -> Iterator[pa.Table]:
        for plan in _plans(self._output, self._count + 1):
            self._take(plan)
            yield plan

    def append(self, documents: Iterable[DocumentRow], *, unit_pages: int, run_id: str) -> tuple[Unit, ...]:
        """Plan those of ``documents`` that no plan covers yet, or has as failed for what is not so any more.

        Nothing is written when there are none. The ``documents`` rows are visible as soon as this returns, and the
        failed ones they supersede are gone with the next publish. Returns the units that were not known before.

        Raises:
            ValueError: see ``plan_units``.
            UsageError: ``run_id`` cannot name a folder.
        """
        check_run_id(run_id)
        learnt: list[Unit] = []
        rows = [replace(row, uri=storable(row.uri)) for row in documents]
        while True:
            learnt.extend(unit for plan in self._new_plans() for unit in _units_of(plan))
            new = _classify(filter(self._lacks, rows), self._doc_ids)
            if not new:
                return tuple(learnt)
            units = plan_units(new, self._output.config_hash, unit_pages)
            stamped = document_table(
                new, run_id=run_id, config_hash=self._output.config_hash, discovered_at=datetime.now(UTC)
            )
            plan = _with_slices(stamped, units)
            number = self._count + 1
            if create_if_absent(self._output.plan_uri(number), parquet_bytes(plan)):
                put(self._output.documents_uri(number), parquet_bytes(stamped))
                self._take(plan)
                return (*learnt, *_units_of(plan))

    def _lacks(self, row: DocumentRow) -> bool:
        before = self.failure(row.uri, row.version)
        learnt = before is not None and (row.status == "ok" or row.reason != before)
        return learnt or not self.covers(row.uri, row.version)

    def _take(self, plan: pa.Table) -> None:
        self._count += 1
        names = ("uri", "version", "status", "doc_id", "reason")
        for uri, version, status, doc_id, reason in zip(
            *(plan.column(name).to_pylist() for name in names), strict=True
        ):
            failure = sys.intern(reason) if status == "failed" and reason else None
            self._failures[_fingerprint(uri, version)] = failure
            if status == "ok":
                self._doc_ids.add(_brief(doc_id))


def _fingerprint(uri: str, version: str) -> bytes:
    return hashlib.blake2b(f"{storable(uri)}\0{version}".encode(), digest_size=16).digest()


def _brief(doc_id: str) -> bytes:
    """Half of a SHA-256, which is as far from meeting its like as a half needs to be."""
    return doc_id[:32].encode()


def _plans(output: Output, first: int = 1) -> Iterator[pa.Table]:
    """The tables of the plans from number ``first`` on, one in memory at a time."""
    for number in count(first):
        uri = output.plan_uri(number)
        try:
            data = get(uri)
        except FileNotFoundError:
            return
        yield plan_table(data, uri)


@dataclass(frozen=True, slots=True)
class Pending:
    """What is planned and not committed yet."""

    units: int
    pages: int


def pending(output: Output, committed: Collection[str]) -> Pending:
    """How much is planned of which ``committed`` (unit ids) does not tell."""
    units = pages = 0
    done = pa.array(committed, pa.string())
    for plan in _plans(output):
        pieces = plan.column("slices").combine_chunks().flatten()
        some = pa.table(
            {
                "unit": pieces.field("unit_id"),
                "pages": pc.add(pc.subtract(pieces.field("last_page"), pieces.field("first_page")), 1),
            }
        )
        some = some.filter(pc.invert(pc.is_in(some.column("unit"), value_set=done)))
        units += pc.count_distinct(some.column("unit")).as_py()
        pages += pc.sum(some.column("pages")).as_py() or 0
    return Pending(units, pages)


def pending_units(output: Output, committed: Collection[str]) -> Iterator[Unit]:
    """The units that are planned and not among ``committed`` (unit ids), oldest plan first, a plan at a time."""
    for plan in _plans(output):
        yield from (unit for unit in _units_of(plan) if unit.unit_id not in committed)


def copies(output: Output, doc_id: str) -> list[str]:
    """URIs of all objects that had these bytes (SHA-256) when they were planned, oldest plan first."""
    same = (plan.filter(pc.equal(plan.column("doc_id"), doc_id)) for plan in _plans(output))
    return [uri for plan in same for uri in plan.column("uri").to_pylist()]


def _with_slices(documents: pa.Table, units: Iterable[Unit]) -> pa.Table:
    slices: dict[str, list[dict[str, Any]]] = {}
    for unit in units:
        for piece in unit.slices:
            slices.setdefault(piece.doc_id, []).append(
                {"unit_id": unit.unit_id, "first_page": piece.first_page, "last_page": piece.last_page}
            )
    ids, statuses = documents.column("doc_id").to_pylist(), documents.column("status").to_pylist()
    column = [slices[doc_id] if status == "ok" else [] for doc_id, status in zip(ids, statuses, strict=True)]
    return documents.append_column(PLAN.field("slices"), pa.array(column, PLAN.field("slices").type))


def _units_of(plan: pa.Table) -> Iterator[Unit]:
    """A unit's slices stand one after the other, because units are filled in the order of the documents."""
    columns = (plan.column(name).to_pylist() for name in ("doc_id", "uri", "slices"))
    pieces = (
        (piece["unit_id"], PageSlice(doc_id, uri, piece["first_page"], piece["last_page"]))
        for doc_id, uri, slices in zip(*columns, strict=True)
        for piece in slices
    )
    for unit_id, group in groupby(pieces, key=lambda item: item[0]):
        yield Unit(unit_id, tuple(piece for _, piece in group))


def plan_table(data: bytes, uri: str) -> pa.Table:
    """A plan file's table. Raises ``RTPruneError`` naming ``uri`` when it is not one."""
    try:
        table = pq.read_table(pa.BufferReader(data))
        return table.select(PLAN.names).cast(PLAN)
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise RTPruneError(
            f"{uri} is not a plan of this version of rtprune", "restore it from a backup, or start a new OUTPUT"
        ) from error
