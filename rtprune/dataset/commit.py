"""Results in, exactly once: one put for a unit's rows, then a marker that only the first writer can create.

Work may be done twice (a worker dies after its put, two runs take the same unit); a unit's rows become part of the
dataset only through its marker. A marker is never changed or removed, which is why a data file whose unit is marked
with another file can be deleted at any time by anybody, and why one without a marker must be left alone.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rtprune.dataset.output import Output, data_file, unit_of
from rtprune.dataset.plan import WorkUnit, load_plans, standing_documents, write_documents
from rtprune.dataset.schema import SCHEMA_VERSION, PageRow, RunRow, page_table, parquet_bytes, row_count, run_table
from rtprune.errors import RTPruneError
from rtprune.store import create_if_absent, delete, find, get, get_many, join, put


@dataclass(frozen=True, slots=True)
class CommittedFile:
    """A data file that is part of the dataset: ``file`` is its path within OUTPUT, ``bytes`` its size."""

    unit_id: str
    file: str
    rows: int
    bytes: int
    sha256: str
    run_id: str


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


def commit_unit(output: Output, unit: WorkUnit, rows: Sequence[PageRow], run_id: str) -> CommittedFile:
    """Make ``rows`` part of the dataset, unless another worker has committed the unit before.

    Returns:
        The file that holds the unit's rows: ours, or the one of whoever came first (ours is then deleted).

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
    if create_if_absent(marker, _json_bytes(asdict(ours))):
        return ours
    first = _committed_file(_json(get(marker), marker), marker)
    if first.file != ours.file:  # equal when an answer got lost and the store was asked twice
        delete(join(output.uri, ours.file))
    return first


def committed_units(output: Output) -> set[str]:
    """Ids of the units whose rows are part of the dataset: what a resumed run leaves out."""
    return {_unit_name(uri) for uri in _markers(output)}


def committed_files(output: Output) -> dict[str, CommittedFile]:
    """The files that make up the dataset now, by unit id."""
    return _with_unlisted(output, _manifested(output))


def _with_unlisted(output: Output, listed: Mapping[str, CommittedFile]) -> dict[str, CommittedFile]:
    """``listed`` and what was committed since: only markers that no manifest lists need to be fetched."""
    unlisted = [uri for uri in _markers(output) if _unit_name(uri) not in listed]
    marked = (_committed_file(_json(data, uri), uri) for uri, data in get_many(unlisted).items())
    return {**listed, **{file.unit_id: file for file in marked}}


def publish(output: Output, run_id: str) -> Published:
    """Leave only committed files in the data folders, and list those not listed yet in the run's manifest.

    A manifest names the files that became visible since the manifests before it; together they name the dataset.
    Publishing is safe beside running workers and may be repeated; where all is published it writes nothing.
    """
    files = [uri.removeprefix(output.uri + "/") for uri in find(join(output.uri, "pages"), ".parquet")]
    listed = _manifested(output)
    committed = _with_unlisted(output, listed)
    orphans = [file for file in files if (unit := unit_of(file)) in committed and committed[unit].file != file]
    for file in orphans:
        delete(join(output.uri, file))
    restored = _restore_documents(output)
    new = [file for unit_id, file in sorted(committed.items()) if unit_id not in listed]
    if new:
        _add_to_manifest(output.manifest_uri(run_id), new)
    return Published(len(new), len(orphans), restored)


def record_run(output: Output, row: RunRow) -> None:
    """Write the run's row; writing it again (when the run ends) replaces it."""
    put(output.run_uri(row.run_id), parquet_bytes(run_table(row, config_hash=output.config_hash)))


def _check_rows(unit: WorkUnit, rows: Sequence[PageRow]) -> None:
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
    plans = load_plans(output)
    written = {uri.rsplit("/", 1)[-1]: uri for uri in find(join(output.uri, "documents"), ".parquet")}
    restored = 0
    for number, (plan, standing) in enumerate(zip(plans, standing_documents(plans), strict=True), start=1):
        run_id = plan.column("run_id")[0].as_py()
        uri = written.get(output.documents_uri(run_id, number).rsplit("/", 1)[-1])
        if uri is None or (len(standing) < len(plan) and row_count(get(uri)) != len(standing)):
            write_documents(output, number, run_id, standing)
            restored += 1
    return restored


def _markers(output: Output) -> list[str]:
    return find(join(output.uri, "_rtprune", "markers"), ".json")


def _unit_name(marker: str) -> str:
    return marker.rsplit("/", 1)[1].removesuffix(".json")


def _manifested(output: Output) -> dict[str, CommittedFile]:
    """What the manifests list, by unit id."""
    manifests = get_many(find(join(output.uri, "_rtprune", "manifests"), ".json"))
    return {file.unit_id: file for uri, data in manifests.items() for file in _manifest_files(data, uri)}


def _manifest_files(data: bytes, uri: str) -> list[CommittedFile]:
    return [_committed_file(entry, uri) for entry in _json(data, uri)["files"]]


def _add_to_manifest(uri: str, files: Sequence[CommittedFile]) -> None:
    try:
        before = _manifest_files(get(uri), uri)
    except FileNotFoundError:
        before = []
    content = {"schema_version": SCHEMA_VERSION, "files": [asdict(file) for file in [*before, *files]]}
    put(uri, _json_bytes(content))


def _json_bytes(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, sort_keys=True) + "\n").encode()


def _json(data: bytes, uri: str) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except ValueError as error:
        raise _damaged(uri) from error
    if not isinstance(content, dict):
        raise _damaged(uri)
    return content


def _committed_file(content: Mapping[str, Any], uri: str) -> CommittedFile:
    """A marker's or manifest's entry, checked: what lies in a store must not lead a reader out of OUTPUT."""
    try:
        file = CommittedFile(**content)
    except TypeError as error:
        raise _damaged(uri) from error
    if unit_of(file.file) != file.unit_id:
        raise _damaged(uri)
    return file


def _damaged(uri: str) -> RTPruneError:
    return RTPruneError(f"{uri} is damaged", "restore it from a backup, or start a new OUTPUT")
