"""Results in, exactly once: one put for a unit's rows, then a marker that only the first writer can create.

Work may be done twice (a worker dies after its put, two runs take the same unit); a unit's rows become part of the
dataset only through its marker. A marker is never changed or removed, which is why a data file whose unit is marked
with another file can be deleted at any time by anybody, and why one without a marker must be left alone.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace

import pyarrow as pa
import pyarrow.parquet as pq

from rtprune.dataset.claims import Claims
from rtprune.dataset.files import (
    CommittedFile,
    FileSet,
    delete_files,
    file_set,
    found_files,
    json_bytes,
    manifest_files,
    marked_file,
    marker_uris,
    record_compaction,
    unit_name,
)
from rtprune.dataset.output import Output, compaction_of, data_file
from rtprune.dataset.plan import Plans, Unit, standing_documents, write_documents
from rtprune.dataset.schema import SCHEMA_VERSION, PageRow, RunRow, page_table, parquet_bytes, row_count, run_table
from rtprune.errors import RTPruneError
from rtprune.store import create_if_absent, delete, find, get, join, put


@dataclass(frozen=True, slots=True)
class Published:
    """What a publish changed: all zero when everything was published before."""

    files: int
    orphans: int
    documents: int

    @property
    def changed(self) -> bool:
        """Whether anything was written or removed."""
        return bool(self.files or self.orphans or self.documents)


def commit_unit(output: Output, unit: Unit, rows: Sequence[PageRow], run_id: str) -> CommittedFile:
    """Make ``rows`` part of the dataset, unless another worker has committed the unit before.

    Returns:
        The file that the unit's marker names: ours, or the one of whoever came first (ours is then deleted).

    Raises:
        RTPruneError: ``rows`` are not exactly the unit's pages, each once.
        StoreError: the store failed; committing again is safe.
    """
    _check_rows(unit, rows)
    data = parquet_bytes(page_table(rows, run_id=run_id, config_hash=output.config_hash))
    sha256 = hashlib.sha256(data).hexdigest()
    ours = CommittedFile(unit.unit_id, data_file(run_id, unit.unit_id, sha256), len(rows), len(data), sha256, run_id)
    put(join(output.uri, ours.file), data)
    marker = output.marker_uri(unit.unit_id)
    if create_if_absent(marker, json_bytes(asdict(ours))):
        return ours
    first = marked_file(get(marker), marker)
    if first.file != ours.file:  # equal when an answer got lost and the store was asked twice
        delete(join(output.uri, ours.file))
    return first


def committed_units(output: Output) -> set[str]:
    """Ids of the units whose rows are part of the dataset: what a resumed run leaves out."""
    return {unit_name(uri) for uri in marker_uris(output)}


def is_committed(output: Output, unit_id: str) -> bool:
    """Whether the unit's rows are part of the dataset."""
    try:
        get(output.marker_uri(unit_id))
    except FileNotFoundError:
        return False
    return True


def publish(output: Output, run_id: str) -> Published:
    """Leave only committed files in the data folders, and list those not listed yet in the run's manifest.

    A manifest names the files that became visible since the manifests before it; together they name the dataset.
    Publishing is safe beside running workers and compactions and may be repeated; where all is published it writes
    nothing.
    """
    orphans, now = remove_orphans(output)
    restored = _restore_documents(output)
    if now.unlisted:
        _add_to_manifest(output.manifest_uri(run_id), now.unlisted)
    return Published(len(now.unlisted), orphans, restored)


def remove_orphans(output: Output) -> tuple[int, FileSet]:
    """Delete the data files that can never be part of the dataset again; returns how many, and the files that are.

    Where the dataset lacks a file nothing is deleted: its records may be what was lost, and the rows lie elsewhere.
    """
    found = found_files(output)  # first, because a file is put before whatever makes it part of the dataset
    now = file_set(output)
    lacking = {file.file for file in now.files} - set(found)
    if lacking and not lacking <= set(found_files(output)):
        return 0, now
    now = _with_numbers_taken(output, now, found)
    return delete_files(output, filter(now.orphaned, found)), now


def _with_numbers_taken(output: Output, now: FileSet, found: Iterable[str]) -> FileSet:
    """See to it that no file in ``found`` waits for its record.

    What a compaction put without coming to its record might still become part of the dataset; an empty record of that
    number settles that it never will. A compaction that is at work, and not dead, takes the next number.
    """
    numbers = set(map(compaction_of, found))
    records = list(now.records)
    while len(records) + 1 in numbers and record_compaction(output, len(records) + 1, None):
        records.append(None)
    return replace(now, records=records)


def record_run(output: Output, row: RunRow) -> None:
    """Write the run's row; writing it again (when the run ends) replaces it."""
    put(output.run_uri(row.run_id), parquet_bytes(run_table(row, config_hash=output.config_hash)))


def bury_dead_runs(output: Output, claims: Claims) -> None:
    """Have the rows of runs that were killed say so, and remove their heartbeats."""
    for run_id in claims.dead_runs():
        with suppress(FileNotFoundError):
            table = pq.read_table(pa.BufferReader(get(output.run_uri(run_id))))
            if table.column("status").to_pylist() == ["running"]:
                index = table.schema.get_field_index("status")
                died = pa.array(["died"], table.schema.field(index).type)
                put(output.run_uri(run_id), parquet_bytes(table.set_column(index, table.schema.field(index), died)))
        claims.forget(run_id)


def _check_rows(unit: Unit, rows: Sequence[PageRow]) -> None:
    planned, given = Counter(unit.pages()), Counter((row.doc_id, row.page) for row in rows)
    for what, pages in (("lack", planned - given), ("have too often or without being asked", given - planned)):
        if pages:
            doc_id, page = min(pages)
            raise RTPruneError(
                f"rows of unit {unit.unit_id} {what} {pages.total()} pages, the first is page {page} of {doc_id}",
                "nothing was written; a reader must give every page of its unit exactly one row",
            )


def _restore_documents(output: Output) -> int:
    """Write the ``documents`` files that lack because a plan's maker was killed, or hold rows that a later plan
    superseded; returns how many."""
    written = {uri.rsplit("/", 1)[-1]: uri for uri in find(join(output.uri, "documents"), ".parquet")}
    restored = 0
    for number, (plan, standing) in enumerate(standing_documents(Plans(output)), start=1):
        run_id = plan.column("run_id")[0].as_py()
        uri = written.get(output.documents_uri(run_id, number).rsplit("/", 1)[-1])
        if uri is None or (len(standing) < len(plan) and row_count(get(uri)) != len(standing)):
            write_documents(output, number, run_id, standing)
            restored += 1
    return restored


def _add_to_manifest(uri: str, files: Sequence[CommittedFile]) -> None:
    try:
        before = manifest_files(get(uri), uri)
    except FileNotFoundError:
        before = []
    content = {"schema_version": SCHEMA_VERSION, "files": [asdict(file) for file in [*before, *files]]}
    put(uri, json_bytes(content))
