"""Which data files make up the dataset now: markers and manifests, and what compactions made of them.

A unit's rows are in the file of the last record of a compaction that has the unit, else in that of its marker.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rtprune.dataset.output import Output, compaction_of, unit_of
from rtprune.dataset.schema import SCHEMA_VERSION
from rtprune.errors import RTPruneError
from rtprune.store import create_if_absent, delete_many, find, get_many, join

_UNIT_ID = re.compile(r"[0-9a-f]{24}")


@dataclass(frozen=True, slots=True)
class CommittedFile:
    """The data file that a unit's marker names: ``file`` is its path within OUTPUT, ``bytes`` its size."""

    unit_id: str
    file: str
    rows: int
    bytes: int
    sha256: str
    run_id: str

    @property
    def units(self) -> tuple[str, ...]:
        """Ids of the units whose rows the file holds: one."""
        return (self.unit_id,)


@dataclass(frozen=True, slots=True)
class CompactedFile:
    """The data file that a compaction's record names, and the ids of the units whose rows it holds."""

    file: str
    units: tuple[str, ...]
    rows: int
    bytes: int
    sha256: str


DataFile = CommittedFile | CompactedFile


@dataclass(frozen=True, slots=True)
class FileSet:
    """The files that make up the dataset at one moment, by unit id, and the records of compactions that say so.

    A record is ``None`` where its number was only taken so that nobody else could take it. ``unlisted`` is what was
    committed and is in no manifest yet, in order of unit id.
    """

    by_unit: Mapping[str, DataFile]
    records: Sequence[CompactedFile | None] = ()
    unlisted: Sequence[CommittedFile] = ()

    @property
    def files(self) -> list[DataFile]:
        """Each file once, in order of their paths."""
        once = {file.file: file for file in self.by_unit.values()}
        return [once[name] for name in sorted(once)]

    def holds(self, file: DataFile) -> bool:
        """Whether ``file`` is one of them; all units of a file move at once."""
        return self.by_unit[file.units[0]].file == file.file

    def orphaned(self, file: str) -> bool:
        """Whether a path within OUTPUT can never again be part of the dataset."""
        unit_id, number = unit_of(file), compaction_of(file)
        if unit_id is not None:
            return unit_id in self.by_unit and self.by_unit[unit_id].file != file
        if number is None or not 1 <= number <= len(self.records):
            return False
        record = self.records[number - 1]
        return record is None or record.file != file or not self.holds(record)


def committed_files(output: Output) -> dict[str, DataFile]:
    """The files that make up the dataset now, by unit id; compacted ones hold many units."""
    return dict(file_set(output).by_unit)


def file_set(output: Output) -> FileSet:
    """The files that make up the dataset now.

    Raises:
        RTPruneError: a marker, a manifest or a record of a compaction is damaged.
    """
    records = _compactions(output)  # before the markers, so that those of all their units are found
    listed = _manifested(output)
    unlisted = get_many([uri for uri in marker_uris(output) if unit_name(uri) not in listed])
    new = sorted((marked_file(data, uri) for uri, data in unlisted.items()), key=lambda file: file.unit_id)
    by_unit: dict[str, DataFile] = {**listed, **{file.unit_id: file for file in new}}
    for number, record in enumerate(records, start=1):
        if record is not None:
            move_units(by_unit, record, output.compaction_uri(number))
    return FileSet(by_unit, records, new)


def move_units(by_unit: dict[str, DataFile], record: CompactedFile, uri: str) -> None:
    """Let ``record``, read from ``uri``, take the place of the files of its units.

    Raises:
        RTPruneError: it has units that were never committed, or some but not all units of a file.
    """
    if not by_unit.keys() >= set(record.units):
        raise _damaged(uri)
    replaced = {by_unit[unit_id].file: by_unit[unit_id] for unit_id in record.units}
    if {unit_id for file in replaced.values() for unit_id in file.units} != set(record.units):
        raise _damaged(uri)
    by_unit.update(dict.fromkeys(record.units, record))


def _compactions(output: Output) -> list[CompactedFile | None]:
    found = get_many(record_uris(output))
    for number, uri in enumerate(found, start=1):
        if uri != output.compaction_uri(number):
            raise RTPruneError(f"{output.compaction_uri(number)} is missing", "restore it from a backup")
    return [recorded_file(data, uri) for uri, data in found.items()]


def _manifested(output: Output) -> dict[str, CommittedFile]:
    """What the manifests list, by unit id."""
    manifests = get_many(manifest_uris(output))
    return {file.unit_id: file for uri, data in manifests.items() for file in manifest_files(data, uri)}


def record_compaction(output: Output, number: int, file: CompactedFile | None) -> bool:
    """Create record ``number``, which makes ``file`` part of the dataset, unless there is one."""
    content = {"schema_version": SCHEMA_VERSION, "file": asdict(file) if file else None}
    return create_if_absent(output.compaction_uri(number), json_bytes(content))


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """``content`` as control files hold it."""
    return (json.dumps(content, sort_keys=True) + "\n").encode()


def found_files(output: Output) -> list[str]:
    """Paths within OUTPUT of all Parquet files among the pages, part of the dataset or not."""
    return [uri.removeprefix(output.uri + "/") for uri in find(join(output.uri, "pages"), ".parquet")]


def delete_files(output: Output, files: Iterable[str]) -> int:
    """Delete data files by their paths within OUTPUT; returns how many were asked for."""
    uris = [join(output.uri, file) for file in files]
    delete_many(uris)
    return len(uris)


def marker_uris(output: Output) -> list[str]:
    """Where the markers lie, one for each committed unit."""
    return find(join(output.uri, "_rtprune", "markers"), ".json")


def manifest_uris(output: Output) -> list[str]:
    """Where the manifests lie."""
    return find(join(output.uri, "_rtprune", "manifests"), ".json")


def record_uris(output: Output) -> list[str]:
    """Where the records of compactions lie, oldest first."""
    return find(join(output.uri, "_rtprune", "compactions"), ".json")


def unit_name(marker_uri: str) -> str:
    """The unit that a marker is for, by the marker's name."""
    return marker_uri.rsplit("/", 1)[1].removesuffix(".json")


def marked_file(data: bytes, uri: str) -> CommittedFile:
    """What the marker read from ``uri`` names. Raises ``RTPruneError`` when it is damaged."""
    return _committed_file(_json(data, uri), uri)


def manifest_files(data: bytes, uri: str) -> list[CommittedFile]:
    """What the manifest read from ``uri`` lists. Raises ``RTPruneError`` when it is damaged."""
    try:
        return [_committed_file(dict(entry), uri) for entry in _json(data, uri)["files"]]
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(uri) from error


def recorded_file(data: bytes, uri: str) -> CompactedFile | None:
    """What the record of a compaction read from ``uri`` names. Raises ``RTPruneError`` when it is damaged."""
    try:
        content = _json(data, uri)["file"]
        if content is None:
            return None
        file = CompactedFile(**dict(content) | {"units": tuple(content["units"])})
        number = compaction_of(file.file)
        fits = number is not None and uri.endswith(f"/{number:06d}.json") and bool(file.units)
        fits = fits and all(_UNIT_ID.fullmatch(unit_id) for unit_id in file.units)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(uri) from error
    if not fits or not _counted(file):
        raise _damaged(uri)
    return file


def _committed_file(content: Mapping[str, Any], uri: str) -> CommittedFile:
    """A marker's or manifest's entry, checked: what lies in a store must not lead a reader out of OUTPUT."""
    try:
        file = CommittedFile(**content)
        fits = unit_of(file.file) == file.unit_id
    except TypeError as error:
        raise _damaged(uri) from error
    if not fits or not _counted(file):
        raise _damaged(uri)
    return file


def _counted(file: DataFile) -> bool:
    return isinstance(file.rows, int) and isinstance(file.bytes, int) and isinstance(file.sha256, str)


def _json(data: bytes, uri: str) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except ValueError as error:
        raise _damaged(uri) from error
    if not isinstance(content, dict):
        raise _damaged(uri)
    return content


def _damaged(uri: str) -> RTPruneError:
    return RTPruneError(f"{uri} is damaged", "restore it from a backup, or start a new OUTPUT")
