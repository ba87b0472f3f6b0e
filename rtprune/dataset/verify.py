"""Proof of what a dataset promises: every planned page is in exactly one committed row, and nothing else is.

The plans put each page into one unit; markers and records of compactions put each unit into one file. So every page is
there once if each file holds the pages of its units once and no others, which takes the memory of one file at a time.

What is written first is read last (records, manifests, markers, pages, plans), so that work that goes on meanwhile
looks unfinished rather than damaged.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rtprune.dataset.files import (
    CommittedFile,
    CompactedFile,
    DataFile,
    FileSet,
    manifest_files,
    manifest_uris,
    marked_file,
    marker_uris,
    move_units,
    record_uris,
    recorded_file,
    unit_name,
)
from rtprune.dataset.findings import Collector, Verdict
from rtprune.dataset.output import Output, compaction_of, unit_of
from rtprune.dataset.planned import Planned
from rtprune.dataset.schema import PAGES
from rtprune.errors import RTPruneError
from rtprune.store import get, get_many, join, open_filesystem, store_errors

MARKERS_AT_ONCE = 10_000
#: How often a verification begins again because a compaction replaced a file that it was about to read.
BEGINNINGS = 5


def verify_dataset(output: Output, *, quick: bool = False) -> Verdict:
    """Hold everything in OUTPUT against everything else.

    Args:
        output: the dataset; runs and compactions may be at work on it.
        quick: believe manifests without the markers they list, and files of the right size without their SHA-256.

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
        self._off = Collector()
        self._harmless = Collector()
        self._records = record_uris(output)

    def overtaken(self) -> bool:
        """Whether files are missing that a compaction may have replaced meanwhile."""
        return self._off.found("missing-file") and record_uris(self._output) != self._records

    def verdict(self) -> Verdict:
        records = dict(self._compactions())
        marked, unreadable = self._marked()
        now = self._moved(marked, records)
        sizes = self._sizes()
        planned = Planned(self._output, self._off)
        pages = sum(self._check_file(file, sizes.get(file.file), planned, now) for file in now.files)
        if planned.whole:
            for unit_id in sorted(now.by_unit.keys() - planned.units.keys()):
                self._off.add("unplanned-unit", self._output.marker_uri(unit_id), "no plan has this unit")
        planned.check_documents(self._output, self._off, self._harmless)
        self._leftovers(sizes, now)
        unread = planned.units.keys() - now.by_unit.keys() - unreadable
        return Verdict(
            quick=self._quick,
            files=len(now.files),
            planned_units=len(planned.units),
            planned_pages=planned.page_count,
            pages=pages,
            unread_units=len(unread),
            unread_pages=sum(map(planned.pages_in, unread)),
            off=self._off.findings(),
            harmless=self._harmless.findings(),
        )

    def _compactions(self) -> Iterator[tuple[int, CompactedFile]]:
        for number, (uri, data) in enumerate(get_many(self._records).items(), start=1):
            if uri != self._output.compaction_uri(number):
                self._off.add("missing-record", self._output.compaction_uri(number), "there are later ones")
                return
            try:
                record = recorded_file(data, uri)
            except RTPruneError as error:
                self._off.add("damaged-record", uri, str(error))
                continue
            if record is not None:
                self._check_name("damaged-record", uri, record)
                yield number, record

    def _marked(self) -> tuple[dict[str, CommittedFile], set[str]]:
        """What manifests and markers say, by unit; and the units whose markers say nothing."""
        listed = self._listed()
        markers = {unit_name(uri): uri for uri in marker_uris(self._output)}
        for unit_id in sorted(listed.keys() - markers.keys()):
            self._off.add("missing-marker", self._output.marker_uri(unit_id), f"{listed[unit_id][0]} lists its unit")
        marked = {unit_id: file for unit_id, (_, file) in listed.items()}
        unreadable: set[str] = set()
        asked = [uri for unit_id, uri in markers.items() if not (self._quick and unit_id in listed)]
        for start in range(0, len(asked), MARKERS_AT_ONCE):
            for uri, data in get_many(asked[start : start + MARKERS_AT_ONCE]).items():
                unit_id = unit_name(uri)
                try:
                    file = marked_file(data, uri)
                except RTPruneError as error:
                    self._off.add("damaged-marker", uri, str(error))
                    unreadable.add(unit_id)
                    continue
                if file.unit_id != unit_id:
                    self._off.add("damaged-marker", uri, f"it is for unit {file.unit_id}")
                    unreadable.add(unit_id)
                    continue
                self._check_name("damaged-marker", uri, file)
                if unit_id in listed and listed[unit_id][1] != file:
                    self._off.add("wrong-manifest", listed[unit_id][0], f"the marker of unit {unit_id} says otherwise")
                marked[unit_id] = file
        return marked, unreadable

    def _listed(self) -> dict[str, tuple[str, CommittedFile]]:
        """What the manifests list, by unit, with the manifest that does."""
        listed: dict[str, tuple[str, CommittedFile]] = {}
        for uri, data in get_many(manifest_uris(self._output)).items():
            try:
                files = manifest_files(data, uri)
            except RTPruneError as error:
                self._off.add("damaged-manifest", uri, str(error))
                continue
            for file in files:
                if file.unit_id in listed and listed[file.unit_id][1] != file:
                    self._off.add("wrong-manifest", uri, f"{listed[file.unit_id][0]} has unit {file.unit_id} elsewhere")
                listed[file.unit_id] = uri, file
        return listed

    def _check_name(self, kind: str, uri: str, file: DataFile) -> None:
        if not file.file.endswith(f"-{file.sha256[:16]}.parquet"):
            self._off.add(kind, uri, "its SHA-256 is not the one in the name of its file")

    def _moved(self, marked: Mapping[str, CommittedFile], records: Mapping[int, CompactedFile]) -> FileSet:
        by_unit: dict[str, DataFile] = dict(marked)
        for number, record in records.items():
            uri = self._output.compaction_uri(number)
            rows = sum(marked[unit_id].rows for unit_id in record.units if unit_id in marked)
            try:
                move_units(by_unit, record, uri)
            except RTPruneError:
                self._off.add("wrong-record", uri, "its units are not those of whole files that were there before")
                continue
            if rows != record.rows:
                self._off.add("wrong-record", uri, f"it has {record.rows} rows, and its units have {rows}")
        known = [records.get(number) for number in range(1, len(self._records) + 1)]
        return FileSet(by_unit, known)

    def _sizes(self) -> dict[str, int]:
        """Size in bytes of everything that a reader of the pages' folder sees, by path within OUTPUT."""
        filesystem, root = open_filesystem(self._output.uri)
        with store_errors(self._output.uri):
            try:
                found: dict[str, dict[str, Any]] = filesystem.find(f"{root}/pages", detail=True)
            except FileNotFoundError:
                return {}
        return {
            path.removeprefix(root + "/"): int(facts["size"])
            for path, facts in found.items()
            if not path.rsplit("/", 1)[1].startswith(".")
        }

    def _check_file(self, file: DataFile, size: int | None, planned: Planned, now: FileSet) -> int:
        """Number of pages that ``file`` holds as it should."""
        where = join(self._output.uri, file.file)
        if size is None:
            self._off.add("missing-file", where, f"it holds {file.rows} pages of {len(file.units)} units")
            return 0
        if size != file.bytes:
            self._off.add("wrong-size", where, f"it has {size} bytes and was committed with {file.bytes}")
        try:
            with self._opened(file, where) as stored:
                pages = self._check_content(stored, file, where)
        except FileNotFoundError:
            self._off.add("missing-file", where, "it vanished while it was read")
            return 0
        except (pa.ArrowException, OSError) as error:
            self._off.add("unreadable-file", where, " ".join(str(error).split()))
            return 0
        return 0 if pages is None else self._check_pages(pages, file, where, planned, now)

    @contextmanager
    def _opened(self, file: DataFile, where: str) -> Iterator[pq.ParquetFile]:
        if self._quick:
            filesystem, path = open_filesystem(where)
            with store_errors(where), filesystem.open(path, cache_type="none") as source:  # no more than is asked for
                try:
                    yield pq.ParquetFile(source, page_checksum_verification=True)
                except OSError as error:
                    if isinstance(error, FileNotFoundError) or error.errno is not None:
                        raise
                    raise pa.ArrowInvalid(str(error)) from error  # Arrow says so as well where the content is damaged
            return
        data = get(where)
        if hashlib.sha256(data).hexdigest() != file.sha256:
            self._off.add("wrong-checksum", where, "its SHA-256 is not the one it was committed with")
        yield pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)

    def _check_content(self, stored: pq.ParquetFile, file: DataFile, where: str) -> Counter[tuple[str, int]] | None:
        """The pages in the file, each with how often; ``None`` where the file does not tell."""
        if difference := _difference(stored.schema_arrow):
            self._off.add("wrong-columns", where, difference)
        if stored.metadata.num_rows != file.rows:
            rows = f"it has {stored.metadata.num_rows} rows and was committed with {file.rows}"
            self._off.add("wrong-row-count", where, rows)
        if not {"doc_id", "page", "config_hash"} <= set(stored.schema_arrow.names):
            return None
        pages: Counter[tuple[str, int]] = Counter()
        hashes: set[str] = set()
        for batch in stored.iter_batches(columns=["doc_id", "page", "config_hash"]):
            pages.update(zip(batch.column("doc_id").to_pylist(), batch.column("page").to_pylist(), strict=True))
            hashes.update(pc.unique(batch.column("config_hash")).to_pylist())
        if others := sorted(map(str, hashes - {self._output.config_hash})):
            what = f"rows were read with configuration {', '.join(others)}, not {self._output.config_hash}"
            self._off.add("wrong-configuration", where, what)
        return pages

    def _check_pages(
        self, pages: Counter[tuple[str, int]], file: DataFile, where: str, planned: Planned, now: FileSet
    ) -> int:
        expected = planned.pages_of(file.units)
        for (doc_id, page), unit_id in expected.items():
            if not pages[doc_id, page]:
                self._off.add("missing-page", where, f"page {page} of {doc_id}, which is in unit {unit_id}")
        for (doc_id, page), times in pages.items():
            if times > 1:
                self._off.add("page-twice", where, f"page {page} of {doc_id} has {times} rows")
            if (doc_id, page) in expected:
                continue
            owner = planned.owner(doc_id, page)
            if owner in now.by_unit:
                elsewhere = now.by_unit[str(owner)].file
                self._off.add("page-twice", where, f"page {page} of {doc_id}, whose unit {owner} is in {elsewhere}")
            elif owner is not None:
                self._off.add("page-elsewhere", where, f"page {page} of {doc_id}, whose unit {owner} is not committed")
            elif planned.whole:
                self._off.add("unplanned-page", where, f"page {page} of {doc_id}, which no plan has")
        return sum(pages[page] == 1 for page in expected)

    def _leftovers(self, sizes: Mapping[str, int], now: FileSet) -> None:
        current = {file.file for file in now.files}
        for file in sorted(sizes.keys() - current):
            if now.orphaned(file):
                what = "no part of the dataset any more: the next run or compaction deletes it"
            elif unit_of(file) or compaction_of(file):
                what = "its work is not done, or was killed: it is taken up or deleted later"
            else:
                what = "not written by rtprune: nobody deletes it, and a plain glob sees it"
            self._harmless.add("leftover", join(self._output.uri, file), what)


def _difference(schema: pa.Schema) -> str | None:
    """How ``schema`` differs from that of pages, in words."""
    if schema.equals(PAGES, check_metadata=True):
        return None
    for name in dict.fromkeys([*PAGES.names, *schema.names]):
        if name not in schema.names:
            return f"column {name} is missing"
        if name not in PAGES.names:
            return f"there should be no column {name}"
        one, other = schema.field(name), PAGES.field(name)
        if not one.equals(other):
            return f"column {name} is {one.type}, nullable {one.nullable}; it should be {other.type}, {other.nullable}"
    if schema.names != PAGES.names:
        return "the columns stand in another order"
    return f"its metadata are {schema.metadata}, not {PAGES.metadata}"
