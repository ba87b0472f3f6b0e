"""What is planned and what was read, as tables of a database that spills to disk, and queries that hold one against the
other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from rtprune.scratch import scratch

if TYPE_CHECKING:
    import duckdb

MEMORY_LIMIT = "512MB"
#: Rows put into the database at a time.
BATCH_ROWS = 100_000

_TABLES = """
CREATE TABLE objects (plan INTEGER, position INTEGER, uri VARCHAR, doc_id VARCHAR, status VARCHAR, pages INTEGER);
CREATE TABLE slices (
    plan INTEGER, position INTEGER, place INTEGER, unit_id VARCHAR, doc_id VARCHAR,
    first_page INTEGER, last_page INTEGER
);
CREATE TABLE homes (unit_id VARCHAR, file INTEGER);
CREATE TABLE rows (doc_id VARCHAR, page INTEGER, file INTEGER);
CREATE TABLE read_files (file INTEGER);
"""

#: Every planned page with the file that its unit is in, if any; and every page with how often each file has it.
_JOINED = """
CREATE TABLE expected AS
    SELECT planned.doc_id, planned.page, planned.unit_id, homes.file
    FROM (
        SELECT doc_id, unit_id, CAST(unnest(generate_series(first_page, last_page)) AS INTEGER) AS page FROM slices
    ) AS planned
    LEFT JOIN homes USING (unit_id);
CREATE TABLE counted AS SELECT doc_id, page, file, count(*) AS times FROM rows GROUP BY doc_id, page, file;
"""

_NOT_COVERED = """
WITH ordered AS (
    SELECT plan, position, first_page, last_page,
        lag(last_page, 1, 0) OVER (PARTITION BY plan, position ORDER BY place) AS before
    FROM slices
), covered AS (
    SELECT plan, position, max(last_page) AS last_page,
        bool_and(first_page = before + 1 AND last_page >= first_page) AS gapless
    FROM ordered GROUP BY plan, position
)
SELECT objects.plan, objects.uri FROM objects LEFT JOIN covered USING (plan, position)
WHERE CASE WHEN status = 'ok' THEN NOT coalesce(gapless AND last_page = pages, false) ELSE gapless IS NOT NULL END
ORDER BY plan, position
"""

_PLANNED_AGAIN = """
SELECT plan, uri FROM objects WHERE status = 'ok'
QUALIFY row_number() OVER (PARTITION BY doc_id ORDER BY plan, position) > 1
ORDER BY plan, position
"""

#: As planning computes a unit's id, but not by its code: what is verified should not be its own witness.
_WRONG_UNIT_ID = """
SELECT unit_id, computed FROM (
    SELECT unit_id, substr(sha256('["' || $config_hash || '", [' || string_agg(
        '["' || doc_id || '", ' || first_page || ', ' || last_page || ']', ', ' ORDER BY plan, place
    ) || ']]'), 1, 24) AS computed
    FROM slices GROUP BY unit_id
) WHERE unit_id IS DISTINCT FROM computed ORDER BY unit_id
"""

_MISSING = """
SELECT file, doc_id, page, unit_id
FROM expected SEMI JOIN read_files USING (file) ANTI JOIN counted USING (doc_id, page, file)
ORDER BY file, doc_id, page
"""

_REPEATED = "SELECT file, doc_id, page, times FROM counted WHERE times > 1 ORDER BY file, doc_id, page"

_MOVED = """
SELECT moved.file, moved.doc_id, moved.page, any_value(expected.unit_id), any_value(expected.file)
FROM (SELECT * FROM counted ANTI JOIN expected USING (doc_id, page, file)) AS moved
LEFT JOIN expected USING (doc_id, page)
GROUP BY moved.file, moved.doc_id, moved.page ORDER BY moved.file, moved.doc_id, moved.page
"""

_UNPLANNED = """
SELECT unit_id, file FROM homes ANTI JOIN slices USING (unit_id) ORDER BY file, unit_id
"""

_PLANNED_PAGES = "coalesce(sum(greatest(last_page - first_page + 1, 0)), 0)"


@dataclass(frozen=True, slots=True)
class Counts:
    """Units and pages planned, those of them whose units are in no file, and pages in exactly one row of their file."""

    units: int
    pages: int
    unread_units: int
    unread_pages: int
    sound_pages: int


class Ledger:
    """Takes in plans, homes of units and rows of files; then answers. Files are numbers given by the caller."""

    def __init__(self, database: duckdb.DuckDBPyConnection) -> None:
        self._database = database
        database.execute(_TABLES)
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0
        self._read: list[int] = []

    def add_plan(self, number: int, plan: pa.Table) -> None:
        """Take in plan ``number``."""
        position = pa.array(range(len(plan)), pa.int32())
        plans = pa.repeat(pa.scalar(number, pa.int32()), len(plan))
        names = ("uri", "doc_id", "status", "pages")
        self._insert("objects", [plans, position, *(plan.column(name) for name in names)])
        lists = plan.column("slices").combine_chunks()
        owner, pieces = pc.list_parent_indices(lists), pc.list_flatten(lists)
        self._insert(
            "slices",
            [
                pa.repeat(pa.scalar(number, pa.int32()), len(pieces)),
                pc.cast(owner, pa.int32()),
                pa.array(range(len(pieces)), pa.int32()),
                pc.struct_field(pieces, "unit_id"),
                pc.take(plan.column("doc_id"), owner),
                pc.struct_field(pieces, "first_page"),
                pc.struct_field(pieces, "last_page"),
            ],
        )

    def add_homes(self, homes: Iterable[tuple[int, Sequence[str]]]) -> None:
        """Take in which units files hold."""
        units: list[str] = []
        files: list[int] = []
        for file, held in homes:
            units.extend(held)
            files.extend([file] * len(held))
        self._insert("homes", [pa.array(units, pa.string()), pa.array(files, pa.int32())])

    def add_rows(self, file: int, rows: pa.Table) -> None:
        """Take in columns ``doc_id`` and ``page`` of a file that could be read."""
        self._read.append(file)
        numbers = pa.repeat(pa.scalar(file, pa.int32()), len(rows))
        columns = [rows.column("doc_id"), rows.column("page"), numbers]
        self._waiting.append(pa.table(columns, names=["doc_id", "page", "file"]))
        self._waiting_rows += len(rows)
        if self._waiting_rows >= BATCH_ROWS:
            self._flush()

    def join(self) -> None:
        """Make ready to answer what rows are asked for; nothing can be taken in any more."""
        self._flush()
        self._insert("read_files", [pa.array(self._read, pa.int32())])
        self._database.execute(_JOINED)

    def not_covered(self) -> Iterator[tuple[int, str]]:
        """Plan and URI of objects whose slices are not each of their pages once."""
        return self._answers(_NOT_COVERED)

    def planned_again(self) -> Iterator[tuple[int, str]]:
        """Plan and URI of objects whose bytes were planned before."""
        return self._answers(_PLANNED_AGAIN)

    def wrong_unit_ids(self, config_hash: str) -> Iterator[tuple[str, str]]:
        """Ids of units that are not those of their pages, and the right ones."""
        return self._answers(_WRONG_UNIT_ID, {"config_hash": config_hash})

    def missing(self) -> Iterator[tuple[int, str, int, str]]:
        """File, document, page and unit of pages that the file of their unit lacks."""
        return self._answers(_MISSING)

    def repeated(self) -> Iterator[tuple[int, str, int, int]]:
        """File, document, page and number of rows of pages that a file has more than once."""
        return self._answers(_REPEATED)

    def moved(self) -> Iterator[tuple[int, str, int, str | None, int | None]]:
        """File, document and page of rows that do not belong into their file; the page's unit and its file, if any."""
        return self._answers(_MOVED)

    def unplanned_units(self) -> Iterator[tuple[str, int]]:
        """Units that are in a file and in no plan, and the file."""
        return self._answers(_UNPLANNED)

    def counts(self) -> Counts:
        """The numbers to see the rest against."""
        planned = f"SELECT count(DISTINCT unit_id), {_PLANNED_PAGES} FROM slices"
        ((units, pages),) = self._answers(planned)
        ((unread_units, unread_pages),) = self._answers(f"{planned} ANTI JOIN homes USING (unit_id)")
        ((sound,),) = self._answers(
            "SELECT count(*) FROM expected JOIN counted USING (doc_id, page, file) WHERE times = 1"
        )
        return Counts(units, int(pages), unread_units, int(unread_pages), sound)

    def _flush(self) -> None:
        if self._waiting:
            rows = pa.concat_tables(self._waiting)
            self._insert("rows", rows.columns)
        self._waiting, self._waiting_rows = [], 0

    def _insert(self, table: str, columns: Sequence[Any]) -> None:
        arrow = pa.table(list(columns), names=[f"c{number}" for number in range(len(columns))])
        self._database.register("incoming", arrow)
        self._database.execute(f"INSERT INTO {table} SELECT * FROM incoming")
        self._database.unregister("incoming")

    def _answers(self, query: str, parameters: dict[str, Any] | None = None) -> Iterator[Any]:
        answers = self._database.execute(query, parameters)
        while some := answers.fetchmany(1_000):
            yield from some


@contextmanager
def open_ledger() -> Iterator[Ledger]:
    """An empty ledger in a temporary folder, which is removed at the end."""
    import duckdb  # here, because workers never need it

    with scratch() as folder:
        settings: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": MEMORY_LIMIT,
            "temp_directory": str(Path(folder, "spilled")),
        }
        database = duckdb.connect(str(Path(folder, "ledger.duckdb")), config=settings)
        try:
            database.execute("SET preserve_insertion_order = false")
            yield Ledger(database)
        finally:
            database.close()
