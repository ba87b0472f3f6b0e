"""Proof of what a dataset promises: every page of every unit that is done is in exactly one row, and nothing else is.

Files are checked one by one: by their own checksums, their columns, the units that they say they hold. What all of
them hold together is then held against the plans by the queries of ``ledger``.

What is written last is read first (files, then records, then plans), so that work that goes on meanwhile looks
unfinished rather than damaged.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rtprune.dataset.documents import Succession
from rtprune.dataset.files import (
    CompactedFile,
    DataFile,
    FileSet,
    elsewhere,
    listing,
    move_units,
    opened,
    own_files,
    record_uris,
    recorded_file,
)
from rtprune.dataset.findings import Collector, Verdict
from rtprune.dataset.layout import Output, compaction_of
from rtprune.dataset.ledger import Ledger, open_ledger
from rtprune.dataset.parquet import checksum_holds, difference, units_in
from rtprune.dataset.plan import documents_of, plan_table
from rtprune.dataset.schema import PAGES
from rtprune.errors import RTPruneError
from rtprune.store import find, get, get_many, is_remote, join

#: Up to this a file is fetched whole, in one request.
WHOLE_BYTES = 1_000_000
#: Files above this are read one at a time.
LARGE_BYTES = 16_000_000
#: Files asked for while one that is slow to come holds up the rest.
FILES_AHEAD = 1_000
#: How often a verification begins again because a compaction replaced a file that it was about to read.
BEGINNINGS = 5

_KEY = pa.schema([("doc_id", pa.string()), ("page", pa.int32())])


def verify_dataset(output: Output, *, quick: bool = False) -> Verdict:
    """Hold everything in OUTPUT against everything else.

    Takes the memory of one file and of the database (``ledger.MEMORY_LIMIT``); what does not fit goes to the disk of
    temporary files.

    Args:
        output: the dataset; runs and compactions may be at work on it.
        quick: read of files larger than ``WHOLE_BYTES`` only which pages they hold, and believe the rest.

    Raises:
        StoreError: the store failed.
    """
    for _ in range(BEGINNINGS):
        verification = _Verification(output, quick)
        verdict = verification.verdict()
        if not verification.overtaken():
            break
    return verdict


class _Verification:
    def __init__(self, output: Output, quick: bool) -> None:
        self._output = output
        self._quick = quick
        self._errors = Collector()
        self._harmless = Collector()
        self._written = self._records_and_plans()

    def verdict(self) -> Verdict:
        now, unreadable_records = self._file_set(listing(self._output))
        files = now.files
        with open_ledger() as ledger:
            ledger.add_homes((number, file.units) for number, file in enumerate(files))
            self._check_files(files, now.listed, ledger)
            all_plans = self._check_plans(ledger)
            ledger.join()
            self._check_pages(ledger, files, all_plans)
            counts = ledger.counts()
        self._check_runs()
        self._check_leftovers(now, unreadable_records)
        return Verdict(
            quick=self._quick,
            files=len(files),
            planned_units=counts.units,
            planned_pages=counts.pages,
            pages=counts.sound_pages,
            unread_units=counts.unread_units,
            unread_pages=counts.unread_pages,
            errors=self._errors.findings(),
            harmless=self._harmless.findings(),
        )

    def overtaken(self) -> bool:
        """Whether what is missing or differs may have been replaced meanwhile."""
        suspicious = self._errors.has("missing-file", "wrong-documents")
        return suspicious and self._written != self._records_and_plans()

    def _records_and_plans(self) -> list[str]:
        return [*record_uris(self._output), *self._plan_uris()]

    def _plan_uris(self) -> list[str]:
        return find(join(self._output.uri, "_rtprune", "plans"), ".parquet")

    def _file_set(self, listed: Mapping[str, int]) -> tuple[FileSet, set[int]]:
        """The files that make up the dataset, as far as records can be read; and numbers of those that cannot."""
        by_unit = own_files(listed)
        records: list[CompactedFile | None] = []
        unreadable: set[int] = set()
        for number, (uri, data) in enumerate(get_many(record_uris(self._output)).items(), start=1):
            if uri != self._output.compaction_uri(number):
                self._errors.add("missing-record", self._output.compaction_uri(number), "there are later ones")
                break
            records.append(None)
            try:
                record = recorded_file(data, uri)
            except RTPruneError as error:
                self._errors.add("damaged-record", uri, str(error))
                unreadable.add(number)
                continue
            if record is None:
                continue
            if not record.file.endswith(f"-{record.sha256[:16]}.parquet"):
                self._errors.add("damaged-record", uri, "its SHA-256 is not the one in the name of its file")
            records[-1] = record
            try:
                move_units(by_unit, record, uri)
            except RTPruneError:
                self._errors.add("wrong-record", uri, "its units are not those of whole files that were there before")
        return FileSet(by_unit, records, listed), unreadable

    def _check_files(self, files: Sequence[DataFile], listed: Mapping[str, int], ledger: Ledger) -> None:
        for number, examined in self._examined(files, listed):
            for kind, what in examined.errors:
                self._errors.add(kind, join(self._output.uri, files[number].file), what)
            if examined.keys is not None:
                ledger.add_rows(number, examined.keys)

    def _examined(self, files: Sequence[DataFile], listed: Mapping[str, int]) -> Iterator[tuple[int, _Examined]]:
        """Every file's number and what is in it: many small ones at a time, large ones one by one."""
        examine = partial(_examine, self._output, listed, self._quick)
        small = [number for number, file in enumerate(files) if file.bytes <= LARGE_BYTES]
        with ThreadPoolExecutor(16 if is_remote(self._output.uri) else min(4, os.cpu_count() or 1)) as pool:
            for start in range(0, len(small), FILES_AHEAD):
                some = small[start : start + FILES_AHEAD]
                yield from zip(some, pool.map(examine, [files[number] for number in some]), strict=True)
        for number, file in enumerate(files):
            if file.bytes > LARGE_BYTES:
                yield number, examine(file)

    def _check_plans(self, ledger: Ledger) -> bool:
        """Hold plans and ``documents`` files against each other; returns whether all plans could be read."""
        succession = Succession.of(self._plans(ledger))
        for number, uri in ledger.not_covered():
            what = f"its units do not hold each page of {uri} once"
            self._errors.add("wrong-plan", self._output.plan_uri(number), what)
        for number, uri in ledger.planned_again():
            self._errors.add("wrong-plan", self._output.plan_uri(number), f"the pages of {uri} were planned before")
        for unit_id, right in ledger.wrong_unit_ids(self._output.config_hash):
            self._errors.add("wrong-unit-id", unit_id, f"its pages and the configuration make {right}")
        all_plans = not self._errors.has("missing-plan", "damaged-plan")
        if all_plans:
            self._check_documents(succession)
        return all_plans

    def _plans(self, ledger: Ledger) -> Iterator[pa.Table]:
        """All plans that can be read, oldest first, after ``ledger`` has taken them in."""
        for number, uri in enumerate(self._plan_uris(), start=1):
            if uri != (expected := self._output.plan_uri(number)):
                self._errors.add("missing-plan", expected, f"there is {uri.rsplit('/', 1)[1]}, but not this one")
                return
            try:
                data = get(uri)
                plan = plan_table(data, uri)
            except RTPruneError as error:
                self._errors.add("damaged-plan", uri, str(error))
                return
            if not checksum_holds(data):
                self._errors.add("damaged-plan", uri, "its checksum does not hold")
                return
            if pc.unique(plan.column("config_hash")).to_pylist() != [self._output.config_hash]:
                what = f"it was made with another configuration than {self._output.config_hash}"
                self._errors.add("wrong-configuration", uri, what)
            ledger.add_plan(number, plan)
            yield plan

    def _check_documents(self, succession: Succession) -> None:
        present = set(find(join(self._output.uri, "documents"), ".parquet"))
        for number in range(1, len(succession.standing) + 1):
            uri, plan_uri = self._output.documents_uri(number), self._output.plan_uri(number)
            if uri not in present:
                self._harmless.add("unpublished", uri, "the next run writes it")
                continue
            present.remove(uri)
            data = get(uri)
            try:
                rows = pq.read_table(pa.BufferReader(data))
            except (pa.ArrowException, OSError) as error:
                self._errors.add("damaged-documents", uri, " ".join(str(error).split()))
                continue
            if not checksum_holds(data):
                self._errors.add("damaged-documents", uri, "its checksum does not hold")
                continue
            plan = plan_table(get(plan_uri), plan_uri)
            if rows.equals(succession.standing_rows(number, plan)):
                continue
            if rows.equals(documents_of(plan)):
                self._harmless.add("unpublished", uri, "the next run removes the rows that a later plan supersedes")
            else:
                self._errors.add("wrong-documents", uri, f"its rows are not those of {plan_uri}")
        for uri in sorted(present):
            self._harmless.add("leftover", uri, "no plan made it, but a plain glob sees it")

    def _check_pages(self, ledger: Ledger, files: Sequence[DataFile], all_plans: bool) -> None:
        def where(file: int) -> str:
            return join(self._output.uri, files[file].file)

        for file, doc_id, page, unit_id in ledger.missing():
            self._errors.add("missing-page", where(file), f"page {page} of {doc_id}, which is in unit {unit_id}")
        for file, doc_id, page, times in ledger.repeated():
            self._errors.add("page-twice", where(file), f"page {page} of {doc_id} has {times} rows")
        for file, doc_id, page, unit, home in ledger.moved():
            what = f"page {page} of {doc_id}"
            if home is not None:
                self._errors.add("page-twice", where(file), f"{what}, whose unit {unit} is in {files[home].file}")
            elif unit is not None:
                self._errors.add("page-elsewhere", where(file), f"{what}, whose unit {unit} is not done")
            elif all_plans:
                self._errors.add("unplanned-page", where(file), f"{what}, which no plan has")
        if all_plans:
            for unit_id, file in ledger.unplanned_units():
                self._errors.add("unplanned-unit", where(file), f"no plan has unit {unit_id}")

    def _check_runs(self) -> None:
        for uri in find(join(self._output.uri, "runs"), ".parquet"):
            if not checksum_holds(get(uri)):
                self._errors.add("damaged-run", uri, "its checksum does not hold")

    def _check_leftovers(self, now: FileSet, unreadable_records: set[int]) -> None:
        current = {file.file for file in now.files}
        for file in sorted(now.listed.keys() - current):
            where, number = join(self._output.uri, file), compaction_of(file)
            if now.unnamed(file) and number not in unreadable_records and not elsewhere(self._output, file, now):
                what = "no record of a compaction names it, and its units are nowhere else"
                self._errors.add("unrecorded-file", where, what)
            elif now.dead(file):
                what = "no part of the dataset any more: the next run or compaction deletes it"
                self._harmless.add("leftover", where, what)
            elif number is not None:
                what = "its compaction is at work, or was killed: the next run or compaction deletes it"
                self._harmless.add("leftover", where, what)
            else:
                what = "not written by rtprune: nobody deletes it, and a plain glob may see it"
                self._harmless.add("leftover", where, what)


@dataclass
class _Examined:
    """What is wrong with a file, by kind and in words, and its columns ``doc_id`` and ``page`` if it has them."""

    errors: list[tuple[str, str]] = field(default_factory=list)
    keys: pa.Table | None = None


def _examine(output: Output, listed: Mapping[str, int], quick: bool, file: DataFile) -> _Examined:
    """Read a file and hold it against what its name or its record says. Raises ``StoreError``."""
    examined = _Examined()
    where = join(output.uri, file.file)
    try:
        if quick and file.bytes > WHOLE_BYTES:
            _check_size(listed.get(file.file, file.bytes), file, examined)
            with opened(where) as stored:
                _check_content(stored, file, output.config_hash, examined)
            return examined
        data = get(where)
        _check_size(len(data), file, examined)
        if not checksum_holds(data):
            examined.errors.append(("wrong-checksum", "its checksum does not hold"))
        elif isinstance(file, CompactedFile) and hashlib.sha256(data).hexdigest() != file.sha256:
            examined.errors.append(("wrong-checksum", "its SHA-256 is not the one in its record"))
        stored = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        _check_content(stored, file, output.config_hash, examined)
    except FileNotFoundError:
        examined.errors.append(("missing-file", f"it holds {len(file.units)} units"))
    except (pa.ArrowException, OSError) as error:
        examined.errors.append(("unreadable-file", " ".join(str(error).split())))
    return examined


def _check_size(size: int, file: DataFile, examined: _Examined) -> None:
    if size != file.bytes:
        examined.errors.append(("wrong-size", f"it has {size} bytes and was written with {file.bytes}"))


def _check_content(stored: pq.ParquetFile, file: DataFile, config_hash: str, examined: _Examined) -> None:
    schema, rows = stored.schema_arrow, stored.metadata.num_rows
    if said := difference(schema, PAGES):
        examined.errors.append(("wrong-columns", said))
    if units_in(schema) != file.units:
        units = ", ".join(units_in(schema)[:3]) or "none"
        examined.errors.append(("wrong-units", f"it says that it holds other units than it should: {units}, ..."))
    if isinstance(file, CompactedFile) and rows != file.rows:
        examined.errors.append(("wrong-row-count", f"it has {rows} rows, and {file.rows} in its record"))
    if not {"doc_id", "page", "config_hash"} <= set(schema.names):
        return
    table = stored.read(columns=["doc_id", "page", "config_hash"])
    if others := sorted(map(str, set(pc.unique(table.column("config_hash")).to_pylist()) - {config_hash})):
        what = f"rows were read with configuration {', '.join(others)}, not {config_hash}"
        examined.errors.append(("wrong-configuration", what))
    examined.keys = table.select(_KEY.names).cast(_KEY)
