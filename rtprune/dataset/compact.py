"""Few large files in place of many small ones, while readers, workers and other compactions are at work.

A compaction gathers the rows of small files in memory, puts them into one new file under the next free number, and
creates the record of that number if there is none. The record is the commit: from then on its units are in the new
file, and the files they were in are deleted. Rows keep the ``run_id`` of the run that read them. Killed anywhere, it
leaves a dataset that reads the same; the next run or compaction deletes what it left. Why nothing is lost or doubled:

- Records are created one after the other, and never changed or removed, so everybody sees the same sequence. Each takes
  the place of whole files that are the dataset's at the record before: who loses a number looks whether its own still
  are, and takes the next number or begins again.
- A file is deleted when a record says that its units are elsewhere. That cannot be unsaid, so anybody may do it at any
  time, with an old view of things, or twice.
- A new file whose compaction was killed before its record bears the number it was meant for. As soon as that number
  belongs to another record it can never be part of the dataset, and whoever sweeps takes the number with an empty one.
  A compaction that is at work puts its file again under the next number: it loses a put, nobody waits.

What a plain glob over ``pages/**/*.parquet`` sees:

- Without a compaction at work, each page exactly once, also while runs write and whatever was killed.
- From a compaction's put to its last deletion, rows of the files it replaces twice; after a kill in between, until the
  next run or compaction ends.
- The rows of a unit that a worker committed again after a compaction had taken it in, twice, until then as well.
- All rows at least once where files are listed in the order of their keys, as object stores do. A reader that lists a
  local folder in another order, or opens files later than it listed them, may miss a file that is deleted meanwhile.

Our own readers see each page exactly once at every moment: they go by the records, and look again when a file is gone.
"""

from __future__ import annotations

import hashlib
import io
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from rtprune.dataset.files import (
    CompactedFile,
    DataFile,
    FileSet,
    current_files,
    delete_files,
    move_units,
    record_compaction,
    recorded_file,
    sweep_files,
)
from rtprune.dataset.layout import Output, compacted_file
from rtprune.dataset.parquet import (
    ROW_GROUP_ROWS,
    checksum_holds,
    difference,
    name_units,
    parquet_writer,
    sealed,
    units_in,
)
from rtprune.dataset.schema import PAGES
from rtprune.errors import RTPruneError, UsageError
from rtprune.store import delete, get, get_many, join, put

MEGABYTE = 1_000_000
TARGET_MB = 128
#: Above this a compaction would need more memory than machines without a GPU have to spare.
LARGEST_TARGET_MB = 1024


@dataclass(frozen=True, slots=True)
class Compaction:
    """What a compaction did: ``replaced`` files with ``bytes_before`` bytes gave way to ``made`` with ``bytes_after``.

    ``files`` made up the dataset before; ``swept`` dead files were deleted.
    """

    files: int
    replaced: int = 0
    made: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    swept: int = 0

    @property
    def changed(self) -> bool:
        """Whether anything was written or removed."""
        return bool(self.made or self.swept)


def target_bytes(target_mb: int | None) -> int:
    """Size of compacted files in bytes for one given in MB. Raises ``UsageError`` when it is out of bounds."""
    megabytes = TARGET_MB if target_mb is None else target_mb
    if not 1 <= megabytes <= LARGEST_TARGET_MB:
        raise UsageError(f"files cannot be compacted to {megabytes} MB", f"choose 1 to {LARGEST_TARGET_MB}")
    return megabytes * MEGABYTE


def compact_dataset(output: Output, *, target: int = TARGET_MB * MEGABYTE) -> Compaction:
    """Gather the files that are smaller than half of ``target`` bytes into files of up to about ``target`` bytes.

    Memory in use is about three times ``target``. Nothing is written where fewer than two files are that small.

    Raises:
        RTPruneError: a file of the dataset is missing or damaged, or records are lost; nothing is written for it.
        StoreError: the store failed; compacting again goes on.
    """
    swept = sweep_files(output)
    if swept.lost:
        raise RTPruneError(
            f"no record of a compaction names {join(output.uri, swept.lost[0])}, whose units are nowhere else",
            f"restore {output.compaction_uri(len(swept.now.records) + 1)} and those after it from a backup",
        )
    now = swept.now
    files = len(now.files)
    replaced: list[DataFile] = []
    made: list[CompactedFile] = []
    while len(small := [file for file in now.files if file.bytes < target / 2]) > 1:
        try:
            gathered, rows, data = _gather(output, small, target)
        except FileNotFoundError as error:
            before, now = now, current_files(output)
            if all(map(now.holds, before.files)):
                gone = next((file.file for file in small if file.file not in now.listed), str(error))
                raise RTPruneError(
                    f"the dataset at {output.uri} lacks a file: {gone}", "nothing was replaced by what was left"
                ) from error
            continue
        new, now = _record(output, now, gathered, rows, data)
        if new is not None:
            delete_files(output, [file.file for file in gathered])
            replaced.extend(gathered)
            made.append(new)
    return Compaction(
        files,
        len(replaced),
        len(made),
        sum(file.bytes for file in replaced),
        sum(file.bytes for file in made),
        swept.deleted,
    )


def _record(
    output: Output, now: FileSet, gathered: Sequence[DataFile], rows: int, data: bytes
) -> tuple[CompactedFile | None, FileSet]:
    """Let ``data`` take the place of the files it was ``gathered`` from; ``None`` when others have replaced some."""
    units = _units(gathered)
    sha256 = hashlib.sha256(data).hexdigest()
    while all(map(now.holds, gathered)):
        number = len(now.records) + 1
        new = CompactedFile(compacted_file(number, sha256), units, rows, len(data), sha256)
        put(join(output.uri, new.file), data)
        if record_compaction(output, number, new):
            by_unit = dict(now.by_unit)
            move_units(by_unit, new, output.compaction_uri(number))
            return new, FileSet(by_unit, [*now.records, new], now.listed)
        now, record = current_files(output), output.compaction_uri(number)
        if recorded_file(get(record), record) == new:  # an answer got lost, and the store was asked twice
            return new, now
        delete(join(output.uri, new.file))
    return None, now


def _units(files: Iterable[DataFile]) -> tuple[str, ...]:
    return tuple(unit_id for file in files for unit_id in file.units)


def _gather(output: Output, files: Sequence[DataFile], target: int) -> tuple[list[DataFile], int, bytes]:
    """The rows of the first of ``files``, as many as fit into ``target`` bytes: these files, their rows, a new file.

    Raises:
        FileNotFoundError: one of the files is gone.
        RTPruneError: one of them is not as it was written.
    """
    left = deque(files)
    gathered: list[DataFile] = []
    gathering = _Gathering(group_bytes=target // 2)
    while left and (len(gathered) < 2 or gathering.size + left[0].bytes <= target):
        some = [left.popleft()]
        expected = some[0].bytes
        while left and expected + left[0].bytes <= min(target // 4, target - gathering.size):
            some.append(left.popleft())
            expected += some[-1].bytes
        contents = get_many([join(output.uri, file.file) for file in some])
        for file, (uri, data) in zip(some, contents.items(), strict=True):
            _take(gathering, file, data, uri)
        gathered.extend(some)
    return gathered, gathering.rows, gathering.finish(_units(gathered))


def _take(gathering: _Gathering, file: DataFile, data: bytes, uri: str) -> None:
    """Add the rows of ``file``, after making sure that ``data`` is what was written."""
    if not checksum_holds(data):
        raise _damaged(uri, "its checksum does not hold")
    if isinstance(file, CompactedFile) and hashlib.sha256(data).hexdigest() != file.sha256:
        raise _damaged(uri, "its SHA-256 is not the one in its record")
    try:
        stored = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        if said := difference(stored.schema_arrow, PAGES):
            raise _damaged(uri, said)
        if units_in(stored.schema_arrow) != file.units:
            raise _damaged(uri, "it says that it holds other units")
        if isinstance(file, CompactedFile) and stored.metadata.num_rows != file.rows:
            raise _damaged(uri, f"it has {stored.metadata.num_rows} rows, and {file.rows} in its record")
        for number in range(stored.num_row_groups):
            rows = stored.read_row_group(number).cast(PAGES)
            gathering.add(rows, len(data) * len(rows) // max(1, stored.metadata.num_rows))
    except (pa.ArrowException, OSError) as error:
        raise _damaged(uri, " ".join(str(error).split())) from error


def _damaged(uri: str, why: str) -> RTPruneError:
    return RTPruneError(
        f"{uri} is damaged: {why}", "restore it from a backup; neither it nor what it was to be gathered with changed"
    )


class _Gathering:
    """A file of pages in memory that grows row group by row group.

    Where rows are long, ``group_bytes`` bounds what those that wait for their row group take in memory.
    """

    def __init__(self, group_bytes: int) -> None:
        self.rows = 0
        self._group_bytes = group_bytes
        self._sink = io.BytesIO()
        self._writer = parquet_writer(self._sink, PAGES)
        self._waiting: list[pa.Table] = []
        self._waiting_rows = self._waiting_bytes = self._waiting_stored = 0

    @property
    def size(self) -> int:
        """Bytes that the file would have, about, if it were finished now."""
        return self._sink.tell() + self._waiting_stored

    def add(self, rows: pa.Table, stored_bytes: int) -> None:
        """Append rows that took ``stored_bytes`` where they were stored before."""
        self.rows += len(rows)
        self._waiting.append(rows)
        self._waiting_rows += len(rows)
        self._waiting_bytes += rows.nbytes
        self._waiting_stored += stored_bytes
        if self._waiting_rows >= ROW_GROUP_ROWS:
            self._write(self._waiting_rows // ROW_GROUP_ROWS * ROW_GROUP_ROWS)
        elif self._waiting_bytes >= self._group_bytes:
            self._write(self._waiting_rows)

    def finish(self, units: Sequence[str]) -> bytes:
        """The whole file, which holds ``units``; nothing can be appended any more."""
        self._write(self._waiting_rows)
        name_units(self._writer, units)
        self._writer.close()
        return sealed(self._sink)

    def _write(self, count: int) -> None:
        """Write the first ``count`` of the rows that wait."""
        if not count:
            return
        waiting = pa.concat_tables(self._waiting)
        self._writer.write_table(waiting.slice(0, count), row_group_size=ROW_GROUP_ROWS)
        left = waiting.slice(count)
        self._waiting_stored = self._waiting_stored * len(left) // len(waiting)
        self._waiting, self._waiting_rows, self._waiting_bytes = [left], len(left), left.nbytes
