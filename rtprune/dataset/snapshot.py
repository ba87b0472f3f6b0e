"""What a run knows: one snapshot of the plan and of the source, in tables that take no more memory as they grow.

The tables are DuckDB's and lie in a temporary folder: what is new and what is left to read are joins, and joins that
outgrow memory go to disk. Every file of the plan is fetched once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby, islice
from types import TracebackType
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rtprune.dataset.layout import Output, check_run_id
from rtprune.dataset.parquet import parquet_bytes
from rtprune.dataset.plan import PageSlice, Unit, documents_of, make_plan, plan_table, units_of, without_repeats
from rtprune.dataset.schema import DocumentRow, storable
from rtprune.errors import Reason, RTPruneError
from rtprune.scratch import scratch
from rtprune.store import create_if_absent, find, get, get_many, join, put

MEMORY = "64MB"  # for DuckDB; what needs more goes to disk
BATCH_OBJECTS = 10_000
PLANS_AT_ONCE = 32

#: An object in one version, and half of that: enough to rule out that it is known.
KEY, DIGEST = (f"{function}(uri || chr(31) || version)" for function in ("md5_number", "md5_number_lower"))

TABLES = """
CREATE TABLE listed (uri VARCHAR, size BIGINT, version VARCHAR, key UHUGEINT);
CREATE TABLE objects (object BIGINT, plan INTEGER, key UHUGEINT, status VARCHAR, reason VARCHAR);
CREATE TABLE contents (doc_id BLOB);
CREATE TABLE copies (doc_id BLOB, uri VARCHAR);
CREATE TABLE units (unit BIGINT, unit_id VARCHAR, pages BIGINT);
CREATE TABLE slices (unit BIGINT, unit_id VARCHAR, doc_id BLOB, uri VARCHAR, first_page INTEGER, last_page INTEGER);
"""

#: An object of a source: URI, size in bytes, version.
Object = tuple[str, int, str]


@dataclass(frozen=True, eq=False)
class Pending:
    """What is planned and not done: the numbers of the units, in the order of the plan, and the pages of each."""

    units: NDArray[np.int64]
    pages: NDArray[np.int64]


class Snapshot:
    """The plan of ``output`` and what a source lists, as this run knows them. To be closed.

    Raises:
        RTPruneError: a file of the plan is missing or damaged.
        StoreError: the store failed.
    """

    def __init__(self, output: Output) -> None:
        self.output = output
        self._resources = ExitStack()
        folder = self._resources.enter_context(scratch())
        options: Any = {"memory_limit": MEMORY, "threads": 1, "temp_directory": folder}
        self._tables = duckdb.connect(f"{folder}/snapshot.duckdb", config=options)
        self._resources.callback(self._tables.close)
        self._tables.execute(TABLES)
        self._first_objects: list[int] = []  # of each file of the plan
        self._objects = self._units = self._copies = 0
        self._keys, self._contents = _Digests(), _Digests()
        try:
            self._load_all()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Remove the tables."""
        self._resources.close()

    @property
    def plans(self) -> int:
        """Number of files of the plan that are in the snapshot."""
        return len(self._first_objects)

    def refresh(self) -> None:
        """Take in the files of the plan that other runs have added."""
        while True:
            uri = self.output.plan_uri(self.plans + 1)
            try:
                data = get(uri)
            except FileNotFoundError:
                return
            self._add(plan_table(data, uri))

    def list_source(self, objects: Iterable[Object], again: Collection[Reason] = ()) -> int:
        """Hold a source against the plan; returns how many objects it has. ``new_objects`` gives those to look into.

        Args:
            objects: each once.
            again: an object that failed for one of these reasons is new.
        """
        source = iter(objects)
        total = 0
        self._tables.execute("DELETE FROM listed")
        while some := list(islice(source, BATCH_OBJECTS)):
            total += len(some)
            uris, sizes, versions = zip(*some, strict=True)
            self._query(
                f"INSERT INTO listed SELECT uri, size, version, {KEY} FROM batch",
                batch=pa.table({"uri": list(map(storable, uris)), "size": sizes, "version": versions}),
            )
        self._query(
            "CREATE OR REPLACE TABLE new AS SELECT uri, size, version FROM listed ANTI JOIN ("
            "  SELECT key FROM objects WHERE NOT (status = 'failed' AND list_contains(?, reason))"
            ") USING (key) ORDER BY listed.rowid",
            [list(again)],
        )
        self.new_count: int = self._one("SELECT count(*) FROM new")
        return total

    def new_objects(self, start: int = 0) -> Iterator[list[Object]]:
        """Objects that the plan lacked when the source was listed, some thousand at a time, in the source's order.

        Args:
            start: number of the object to begin with; those before it come last.
        """
        start -= start % BATCH_OBJECTS
        for first in (*range(start, self.new_count, BATCH_OBJECTS), *range(0, start, BATCH_OBJECTS)):
            yield self._query("SELECT * FROM new WHERE rowid >= ? AND rowid < ?", [first, first + BATCH_OBJECTS])

    def unplanned(self, objects: Sequence[Object]) -> list[Object]:
        """Those of ``objects`` that no file of the plan covers which was added since the source was listed."""
        known = self._known([(uri, version) for uri, _, version in objects])
        return [each for each in objects if known.get((each[0], each[2]), ("failed", None))[0] == "failed"]

    def append(self, documents: Iterable[DocumentRow], *, unit_pages: int, run_id: str) -> int:
        """Plan those of ``documents`` that the plan lacks, or has as failed for what is not so any more.

        Nothing is written when there are none. Their ``documents`` rows are visible as soon as this returns, and the
        failed ones they supersede are gone with the next `publish_documents`. Returns how many were planned.

        Raises:
            ValueError: see ``plan_units``.
            UsageError: ``run_id`` cannot name a file.
        """
        check_run_id(run_id)
        rows = [row if row.uri.isascii() else replace(row, uri=storable(row.uri)) for row in documents]
        while True:
            self.refresh()
            new = without_repeats(self._lacking(rows), self._planned_contents(rows))
            if not new:
                return 0
            now, config_hash = datetime.now(UTC), self.output.config_hash
            plan = make_plan(new, unit_pages=unit_pages, run_id=run_id, config_hash=config_hash, discovered_at=now)
            number = self.plans + 1
            if create_if_absent(self.output.plan_uri(number), parquet_bytes(plan)):
                put(self.output.documents_uri(number), parquet_bytes(documents_of(plan)))
                self._add(plan)
                return len(new)

    def pending(self, done: Collection[str]) -> Pending:
        """What is planned without the units whose ids are in ``done``."""
        pending = self._columns(
            "SELECT unit, pages FROM units ANTI JOIN done USING (unit_id) ORDER BY unit",
            done=pa.table({"unit_id": pa.array(done, pa.string())}),
        )
        return Pending(np.asarray(pending["unit"], np.int64), np.asarray(pending["pages"], np.int64))

    def units(self, numbers: Collection[int]) -> list[Unit]:
        """The units of these numbers, in the order of the plan; best for numbers that lie close together."""
        if not numbers:
            return []
        wanted = pa.table({"unit": pa.array(sorted(numbers), pa.int64())})
        rows = self._query(
            "SELECT unit_id, lower(hex(doc_id)), uri, first_page, last_page FROM slices SEMI JOIN wanted USING (unit) "
            "WHERE unit >= ? AND unit <= ? ORDER BY slices.rowid",
            [min(numbers), max(numbers)],
            wanted=wanted,
        )
        copies = self._copies_of({doc_id for _, doc_id, *_ in rows}) if self._copies else {}
        return [
            Unit(
                unit_id,
                tuple(
                    PageSlice(doc_id, uri, first, last, copies.get(doc_id, ())) for _, doc_id, uri, first, last in group
                ),
            )
            for unit_id, group in groupby(rows, key=lambda row: row[0])
        ]

    def publish_documents(self) -> int:
        """Write the ``documents`` files that lack because a run was killed, or have rows that a later plan superseded;
        returns how many."""
        written = {uri.rsplit("/", 1)[1] for uri in find(join(self.output.uri, "documents"), ".parquet")}
        superseded = self._superseded()
        published = 0
        for number in range(1, self.plans + 1):
            uri = self.output.documents_uri(number)
            lacking = uri.rsplit("/", 1)[1] not in written
            if not lacking and number not in superseded:
                continue
            rows = documents_of(plan_table(get(self.output.plan_uri(number)), self.output.plan_uri(number)))
            rows = rows.filter(pa.array(~np.isin(np.arange(len(rows)), superseded.get(number, []))))
            if lacking or _row_count(uri) != len(rows):
                put(uri, parquet_bytes(rows))
                published += 1
        return published

    def _superseded(self) -> dict[int, list[int]]:
        """For the files of the plan whose failed rows a later one supersedes, the numbers of these rows."""
        numbers: dict[int, list[int]] = {}
        for plan, row in self._query(
            "SELECT plan, object FROM objects before WHERE status = 'failed' AND EXISTS "
            "(SELECT 1 FROM objects later WHERE later.key = before.key AND later.plan > before.plan)"
        ):
            numbers.setdefault(plan, []).append(row - self._first_objects[plan - 1])
        return numbers

    def _load_all(self) -> None:
        uris = find(join(self.output.uri, "_rtprune", "plans"), ".parquet")
        for first in range(0, len(uris), PLANS_AT_ONCE):
            for uri, data in get_many(uris[first : first + PLANS_AT_ONCE]).items():
                if uri != self.output.plan_uri(self.plans + 1):
                    lost = self.output.plan_uri(self.plans + 1)
                    raise RTPruneError(f"{lost} is missing", "restore it from a backup, or start a new OUTPUT")
                self._add(plan_table(data, uri))

    def _add(self, plan: pa.Table) -> None:
        """Take one more file of the plan in."""
        plan = plan.append_column("object", pa.array(range(self._objects, self._objects + len(plan)), pa.int64()))
        self._query(
            f"INSERT INTO objects SELECT object, ?, {KEY}, status, reason FROM plan", [self.plans + 1], plan=plan
        )
        self._query("INSERT INTO contents SELECT unhex(doc_id) FROM plan WHERE status = 'ok'", plan=plan)
        self._query("INSERT INTO copies SELECT unhex(doc_id), uri FROM plan WHERE status = 'duplicate'", plan=plan)
        slices = units_of(plan)
        self._query(
            "INSERT INTO slices SELECT unit + ?, unit_id, unhex(doc_id), uri, first_page, last_page "
            "FROM slices_added JOIN plan ON plan.object = slices_added.object + ? "
            "ORDER BY unit, plan.object, first_page",
            [self._units, self._objects],
            slices_added=slices,
            plan=plan,
        )
        self._query(
            "INSERT INTO units SELECT unit + ?, any_value(unit_id), sum(last_page - first_page + 1) FROM slices_added "
            "GROUP BY unit ORDER BY unit",
            [self._units],
            slices_added=slices,
        )
        digests = self._columns(f"SELECT {DIGEST} AS digest FROM plan", plan=plan)["digest"]
        self._keys.add(np.asarray(digests, np.uint64))
        self._contents.add(_digests(plan.filter(pc.equal(plan["status"], "ok"))["doc_id"].to_pylist()))
        self._first_objects.append(self._objects)
        self._objects += len(plan)
        self._units = self._one("SELECT coalesce(max(unit) + 1, 0) FROM units")
        self._copies = self._one("SELECT count(*) FROM copies")

    def _lacking(self, rows: Sequence[DocumentRow]) -> list[DocumentRow]:
        known = self._known([(row.uri, row.version) for row in rows])

        def lacks(row: DocumentRow) -> bool:
            before = known.get((row.uri, row.version))
            return before is None or (before[0] == "failed" and (row.status == "ok" or row.reason != before[1]))

        return list(filter(lacks, rows))

    def _known(self, objects: Sequence[tuple[str, str]]) -> dict[tuple[str, str], tuple[str, str | None]]:
        """Status and reason of those of ``objects`` (URI, version) that are planned, by the last file that has them."""
        uris, versions = zip(*objects, strict=True) if objects else ((), ())
        asked = pa.table({"uri": list(map(storable, uris)), "version": list(versions)}, schema=_OBJECT)
        digests = self._columns(f"SELECT {DIGEST} AS digest FROM asked", asked=asked)["digest"]
        maybe = asked.filter(pa.array(self._keys.have(np.asarray(digests, np.uint64))))
        if not len(maybe):
            return {}
        rows = self._query(
            f"SELECT uri, version, status, reason FROM objects JOIN (SELECT uri, version, {KEY} AS key FROM maybe) "
            "USING (key) ORDER BY plan",
            maybe=maybe,
        )
        return {(uri, version): (status, reason) for uri, version, status, reason in rows}

    def _planned_contents(self, rows: Sequence[DocumentRow]) -> set[str]:
        """Those ``doc_id`` of ``rows`` whose pages are planned."""
        doc_ids = [row.doc_id for row in rows if row.status == "ok" and row.doc_id]
        maybe = [doc_id for doc_id, has in zip(doc_ids, self._contents.have(_digests(doc_ids)), strict=True) if has]
        if not maybe:
            return set()
        planned = self._query(
            "SELECT lower(hex(doc_id)) FROM contents "
            "SEMI JOIN (SELECT unhex(doc_id) AS doc_id FROM maybe) USING (doc_id)",
            maybe=pa.table({"doc_id": maybe}),
        )
        return {doc_id for (doc_id,) in planned}

    def _copies_of(self, doc_ids: Collection[str]) -> dict[str, tuple[str, ...]]:
        copies = self._query(
            "SELECT lower(hex(doc_id)), list(uri ORDER BY copies.rowid) FROM copies "
            "SEMI JOIN (SELECT unhex(doc_id) AS doc_id FROM asked) USING (doc_id) GROUP BY doc_id",
            asked=pa.table({"doc_id": pa.array(doc_ids, pa.string())}),
        )
        return {doc_id: tuple(uris) for doc_id, uris in copies}

    def _one(self, query: str) -> int:
        return int(self._query(query)[0][0])

    def _query(self, query: str, parameters: Sequence[object] = (), **tables: pa.Table) -> list[tuple[Any, ...]]:
        """The rows that ``query`` gives, in which ``tables`` can be named."""
        with self._run(query, parameters, tables) as result:
            return result.fetchall()

    def _columns(self, query: str, parameters: Sequence[object] = (), **tables: pa.Table) -> dict[str, NDArray[Any]]:
        """The same as columns."""
        with self._run(query, parameters, tables) as result:
            return result.fetchnumpy()

    @contextmanager
    def _run(
        self, query: str, parameters: Sequence[object], tables: Mapping[str, pa.Table]
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        for name, table in tables.items():
            self._tables.register(name, table)
        try:
            yield self._tables.execute(query, list(parameters))
        finally:
            for name in tables:
                self._tables.unregister(name)


_OBJECT = pa.schema([("uri", pa.string()), ("version", pa.string())])


def _digests(doc_ids: Sequence[str]) -> NDArray[np.uint64]:
    """The first eight bytes of each SHA-256."""
    data = bytes.fromhex("".join(doc_id[:16] for doc_id in doc_ids))
    return np.frombuffer(data, np.dtype(">u8")).astype(np.uint64)


class _Digests:
    """A set of 64-bit digests that takes eight bytes for each: most new objects need no query."""

    def __init__(self) -> None:
        self._sorted = np.empty(0, np.uint64)
        self._recent: list[NDArray[np.uint64]] = []

    def add(self, digests: NDArray[np.uint64]) -> None:
        """Take in."""
        self._recent.append(np.sort(digests))
        if sum(map(len, self._recent)) > max(4 * BATCH_OBJECTS, len(self._sorted) // 8):
            self._sorted = np.sort(np.concatenate([self._sorted, *self._recent]))
            self._recent.clear()

    def have(self, digests: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which of ``digests`` are in the set."""
        known = np.zeros(len(digests), np.bool_)
        for part in (self._sorted, *self._recent):
            if len(part):
                at = np.minimum(np.searchsorted(part, digests), len(part) - 1)
                known |= part[at] == digests
        return known


def _row_count(uri: str) -> int:
    return int(pq.read_metadata(pa.BufferReader(get(uri))).num_rows)
