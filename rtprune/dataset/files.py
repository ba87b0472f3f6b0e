"""Which files make up the dataset now: the units' own files, and what compactions made of them.

A unit's file is its own marker. It is created only if absent, in one put, so that of any number of workers the first
one commits the unit; where the file is, the unit is done. A compaction puts the rows of many units into one new file
and then creates a record that names their units; from then on their own files are dead. So the dataset is:

- the listed files of units that no record names,
- for every unit that records name, the file of the last of them.

Records are created one after the other and never changed or removed, so what is dead stays dead: anybody may delete it
at any time, with an old view of things, or twice.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rtprune.dataset.layout import Output, compaction_of, unit_file, unit_of
from rtprune.dataset.parquet import parquet_bytes, units_in
from rtprune.dataset.plan import Unit
from rtprune.dataset.schema import PAGES, SCHEMA_VERSION, PageRow, page_table
from rtprune.errors import RTPruneError
from rtprune.store import (
    create_if_absent,
    delete_many,
    exists,
    find,
    get,
    get_many,
    join,
    open_filesystem,
    scan,
    store_errors,
)

_UNIT_ID = re.compile(r"[0-9a-f]{24}")


@dataclass(frozen=True, slots=True)
class UnitFile:
    """A unit's own file, ``bytes`` long."""

    unit_id: str
    bytes: int

    @property
    def file(self) -> str:
        """Its path within OUTPUT."""
        return unit_file(self.unit_id)

    @property
    def units(self) -> tuple[str, ...]:
        """Ids of the units whose rows the file holds: one."""
        return (self.unit_id,)


@dataclass(frozen=True, slots=True)
class CompactedFile:
    """What a record says of a compacted file: its path within OUTPUT, the units in it, and the SHA-256 of its bytes."""

    file: str
    units: tuple[str, ...]
    rows: int
    bytes: int
    sha256: str


DataFile = UnitFile | CompactedFile


@dataclass(frozen=True, slots=True)
class FileSet:
    """The files that make up the dataset at one moment.

    Attributes:
        by_unit: the file that holds each unit.
        records: of compactions, oldest first; ``None`` where a number was only taken so that nobody else could.
        listed: bytes of every file among the pages, part of the dataset or not, by path within OUTPUT.
    """

    by_unit: Mapping[str, DataFile]
    records: Sequence[CompactedFile | None] = ()
    listed: Mapping[str, int] = field(default_factory=dict)

    @property
    def files(self) -> list[DataFile]:
        """Each file once, in order of their paths."""
        once = {file.file: file for file in self.by_unit.values()}
        return [once[name] for name in sorted(once)]

    def holds(self, file: DataFile) -> bool:
        """Whether ``file`` is one of them; all units of a file move at once."""
        held = self.by_unit.get(file.units[0])
        return held is not None and held.file == file.file

    def dead(self, file: str) -> bool:
        """Whether a path within OUTPUT can never again be part of the dataset."""
        unit_id, number = unit_of(file), compaction_of(file)
        if unit_id is not None:
            return unit_id in self.by_unit and self.by_unit[unit_id].file != file
        if number is None or not 1 <= number <= len(self.records):
            return False
        record = self.records[number - 1]
        return record is None or record.file != file or not self.holds(record)

    def unnamed(self, file: str) -> bool:
        """Whether a path within OUTPUT is that of a compacted file that no record names."""
        number = compaction_of(file)
        if number is None:
            return False
        record = self.records[number - 1] if 1 <= number <= len(self.records) else None
        return record is None or record.file != file


def commit_unit(output: Output, unit: Unit, rows: Sequence[PageRow], run_id: str) -> bool:
    """Make ``rows`` part of the dataset, unless another worker has committed the unit before.

    A worker that comes so late that a compaction has taken the unit in and deleted its file creates it once more. That
    file is dead from the start: the record wins for all our readers, and ``sweep`` deletes it. Until then a plain glob
    sees its rows twice.

    Returns:
        Whether ours were first.

    Raises:
        RTPruneError: ``rows`` are not exactly the unit's pages, each once.
        StoreError: the store failed; committing again is safe.
    """
    _check_rows(unit, rows)
    table = page_table(rows, run_id=run_id, config_hash=output.config_hash)
    data = parquet_bytes(table, units=[unit.unit_id])
    uri = output.unit_uri(unit.unit_id)
    if create_if_absent(uri, data):
        return True
    try:
        return get(uri) == data  # then an answer got lost, and the store was asked twice
    except FileNotFoundError:
        return False


def is_done(output: Output, unit_id: str) -> bool:
    """Whether the unit's own file is there, by one request.

    ``False`` also for a unit that a compaction has taken in; ``done_units`` knows those. Raises ``StoreError``.
    """
    return exists(output.unit_uri(unit_id))


def rows_of_run(output: Output, unit_id: str, run_id: str) -> pa.Table:
    """The rows in the unit's own file that this run wrote: all of them or none."""
    try:
        table = pq.read_table(pa.BufferReader(get(output.unit_uri(unit_id))))
    except FileNotFoundError:  # a compaction has taken them in
        return PAGES.empty_table()
    return table.filter(pc.equal(table.column("run_id"), run_id))


def done_units(output: Output) -> set[str]:
    """Ids of the units whose rows are part of the dataset: what a run leaves out. Raises as ``current_files`` does."""
    listed, records = listing(output), read_records(output)
    named = {unit_id for record in records if record is not None for unit_id in record.units}
    return named | {unit_id for unit_id in map(unit_of, listed) if unit_id is not None}


def current_files(output: Output) -> FileSet:
    """The files that make up the dataset now.

    Raises:
        RTPruneError: a record of a compaction is damaged or missing.
        StoreError: the store failed.
    """
    listed = listing(output)  # first: a file is deleted only after the record that has its units elsewhere
    records = read_records(output)
    by_unit = own_files(listed)
    for number, record in enumerate(records, start=1):
        if record is not None:
            move_units(by_unit, record, output.compaction_uri(number))
    return FileSet(by_unit, records, listed)


def own_files(listed: Mapping[str, int]) -> dict[str, DataFile]:
    """The units' own files among ``listed`` ones, by unit."""
    named = ((unit_of(file), size) for file, size in listed.items())
    return {unit_id: UnitFile(unit_id, size) for unit_id, size in named if unit_id is not None}


def move_units(by_unit: dict[str, DataFile], record: CompactedFile, uri: str) -> None:
    """Let ``record``, read from ``uri``, take the place of the files of its units.

    Raises:
        RTPruneError: it has some but not all units of a file.
    """
    before = {by_unit[unit_id].file: by_unit[unit_id] for unit_id in record.units if unit_id in by_unit}
    if not {unit_id for file in before.values() for unit_id in file.units} <= set(record.units):
        raise _damaged(uri)
    by_unit.update(dict.fromkeys(record.units, record))


def listing(output: Output) -> dict[str, int]:
    """Bytes of every file among the pages, by path within OUTPUT."""
    return {uri.removeprefix(output.uri + "/"): size for uri, size in scan(join(output.uri, "pages"))}


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep did.

    Attributes:
        deleted: number of dead files deleted.
        now: the files that make up the dataset.
        lost: compacted files that no record names and whose units are nowhere else: their records were lost.
    """

    deleted: int
    now: FileSet
    lost: Sequence[str] = ()


def sweep(output: Output) -> int:
    """Delete dead files, which killed compactions and late workers leave; returns how many.

    Safe beside running workers and compactions. Where the dataset lacks a file that a record names, nothing is deleted.
    Raises as ``current_files`` does.
    """
    return sweep_files(output).deleted


def sweep_files(output: Output) -> Swept:
    """As ``sweep``, and what it came to know.

    A compacted file without a record is deleted only if its units are elsewhere in the dataset: it may also be the
    records that are lost.
    """
    now = current_files(output)
    listed = now.listed
    lacking = {file.file for file in now.files} - set(listed)
    if lacking and not lacking <= set(listing(output)):
        return Swept(0, now)
    lost = [file for file in listed if now.unnamed(file) and not elsewhere(output, file, now)]
    now = _with_numbers_taken(output, now, set(listed) - set(lost))
    dead = [file for file in listed if now.dead(file) and file not in lost]
    delete_files(output, dead)
    return Swept(len(dead), now, lost)


def elsewhere(output: Output, file: str, now: FileSet) -> bool:
    """Whether all units in a compacted file that no record names are in the dataset without it."""
    try:
        with opened(join(output.uri, file)) as stored:
            units = units_in(stored.schema_arrow)
    except FileNotFoundError:
        return True  # deleted meanwhile
    except (pa.ArrowException, OSError):
        return False
    return bool(units) and now.by_unit.keys() >= set(units)


def _with_numbers_taken(output: Output, now: FileSet, listed: Iterable[str]) -> FileSet:
    """See to it that no file in ``listed`` waits for its record.

    What a compaction put without coming to its record might still become part of the dataset; an empty record of that
    number settles that it never will. A compaction that is at work, and not dead, takes the next number.
    """
    numbers = set(map(compaction_of, listed))
    records = list(now.records)
    while len(records) + 1 in numbers and record_compaction(output, len(records) + 1, None):
        records.append(None)
    return replace(now, records=records)


@contextmanager
def opened(uri: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file of which no more is fetched than is asked for.

    Raises:
        FileNotFoundError: there is none.
        pa.ArrowException: it cannot be read.
        StoreError: the store failed.
    """
    filesystem, path = open_filesystem(uri)
    with store_errors(uri), filesystem.open(path, cache_type="none") as source:
        try:
            yield pq.ParquetFile(source, page_checksum_verification=True)
        except OSError as error:
            if isinstance(error, FileNotFoundError) or error.errno is not None:
                raise
            raise pa.ArrowInvalid(str(error)) from error  # Arrow says so as well where the content is damaged


def delete_files(output: Output, files: Iterable[str]) -> None:
    """Delete files by their paths within OUTPUT."""
    delete_many([join(output.uri, file) for file in files])


def record_uris(output: Output) -> list[str]:
    """Where the records of compactions lie, oldest first."""
    return find(join(output.uri, "_rtprune", "compactions"), ".json")


def read_records(output: Output) -> list[CompactedFile | None]:
    """The records of compactions, oldest first. Raises ``RTPruneError`` when one is damaged or missing."""
    contents = get_many(record_uris(output))
    for number, uri in enumerate(contents, start=1):
        if uri != output.compaction_uri(number):
            raise RTPruneError(f"{output.compaction_uri(number)} is missing", "restore it from a backup")
    return [recorded_file(data, uri) for uri, data in contents.items()]


def record_compaction(output: Output, number: int, file: CompactedFile | None) -> bool:
    """Create record ``number``, which makes ``file`` part of the dataset, unless there is one."""
    content = {"schema_version": SCHEMA_VERSION, "file": asdict(file) if file else None}
    return create_if_absent(output.compaction_uri(number), (json.dumps(content, sort_keys=True) + "\n").encode())


def recorded_file(data: bytes, uri: str) -> CompactedFile | None:
    """What the record of a compaction read from ``uri`` names, checked: it must not lead a reader out of OUTPUT.

    Raises:
        RTPruneError: it is damaged.
    """
    try:
        content = json.loads(data)["file"]
        if content is None:
            return None
        file = CompactedFile(**dict(content) | {"units": tuple(content["units"])})
        number = compaction_of(file.file)
        fits = number is not None and uri.endswith(f"/{number:06d}.json") and bool(file.units)
        fits = fits and all(_UNIT_ID.fullmatch(unit_id) for unit_id in file.units)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(uri) from error
    if not (fits and _typed(file)):
        raise _damaged(uri)
    return file


def _typed(file: CompactedFile) -> bool:
    content: Mapping[str, Any] = asdict(file)
    kinds = {"rows": int, "bytes": int, "sha256": str}
    return all(isinstance(content[name], kind) for name, kind in kinds.items())


def _damaged(uri: str) -> RTPruneError:
    return RTPruneError(f"{uri} is damaged", "restore it from a backup, or start a new OUTPUT")


def _check_rows(unit: Unit, rows: Sequence[PageRow]) -> None:
    planned, given = Counter(unit.pages()), Counter((row.doc_id, row.page) for row in rows)
    for what, pages in (("lack", planned - given), ("have too often or without being asked", given - planned)):
        if pages:
            doc_id, page = min(pages)
            raise RTPruneError(
                f"rows of unit {unit.unit_id} {what} {pages.total()} pages, the first is page {page} of {doc_id}",
                "nothing was written; a worker must give every page of its unit exactly one row",
            )
