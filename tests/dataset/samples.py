"""Documents and rows to try the dataset with, and the check that it keeps its promise."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import pyarrow.dataset as pads
import pyarrow.parquet as pq

from rtprune.dataset import (
    DocumentRow,
    Output,
    PageRow,
    RegionRow,
    Snapshot,
    Unit,
    current_files,
    read_documents,
    read_pages,
)
from rtprune.dataset.parquet import checksum_holds
from rtprune.dataset.schema import PAGES
from rtprune.store import find, get, get_many, join, open_filesystem, put

CONFIG = {"model": "mini", "mode": "tiny", "task": None, "prune": "dynamic", "max_output_tokens": 64, "dpi": 144}


def document(name: str, pages: int = 1, *, version: str = "1", content: str | None = None) -> DocumentRow:
    """A document that could be opened; the same ``content`` means the same bytes."""
    doc_id = hashlib.sha256((content or name).encode()).hexdigest()
    return DocumentRow(f"s3://in/{name}.pdf", version, 100 * pages, "ok", doc_id, "pdf", pages)


def plan(output: Output, documents: Iterable[DocumentRow], *, unit_pages: int, run_id: str) -> list[Unit]:
    """Plan documents; the units that were not planned before."""
    with Snapshot(output) as snapshot:
        before = len(snapshot.pending(()).units)
        snapshot.append(documents, unit_pages=unit_pages, run_id=run_id)
        return snapshot.units(snapshot.pending(()).units[before:].tolist())


def planned_units(output: Output) -> list[Unit]:
    """All units, in the order of the plan."""
    with Snapshot(output) as snapshot:
        return snapshot.units(snapshot.pending(()).units.tolist())


def publish_documents(output: Output) -> int:
    """Write the documents files that lack or are out of date; returns how many."""
    with Snapshot(output) as snapshot:
        return snapshot.publish_documents()


def rows_of(unit: Unit, say: str = "text", status: str = "ok") -> list[PageRow]:
    """Rows that cover the unit; ``say`` makes their content, and so their file, differ."""
    return [
        PageRow(
            doc_id=piece.doc_id,
            uri=piece.uri,
            page=page,
            status=status,  # type: ignore[arg-type]
            model="mini",
            mode="tiny",
            text=f"{say} {page}",
            regions=(RegionRow("title", 0, 1, 998, 999, say),),
            visual_tokens_before=73,
            visual_tokens_after=60,
            output_tokens=page,
        )
        for piece in unit.slices
        for page in range(piece.first_page, piece.last_page + 1)
    ]


def objects_of(output: Output) -> dict[str, bytes]:
    """Every object of a dataset, by its path within OUTPUT."""
    return {uri.removeprefix(output.uri): data for uri, data in get_many(find(output.uri)).items()}


def copied(objects: Mapping[str, bytes], uri: str) -> Output:
    """The dataset of these ``objects`` at ``uri``, as if it had been written there: nothing in it depends on where it
    lies, and copying is much less work."""
    for path, data in objects.items():
        put(join(uri, path), data)
    return Output.existing(uri)


def glob_pages(output: Output) -> list[tuple[str, int]]:
    """(doc_id, page) of every row that a reader sees who knows nothing of records."""
    filesystem, root = open_filesystem(output.uri)
    files = filesystem.glob(f"{root}/pages/**/*.parquet")
    table = pads.dataset(files, format="parquet", filesystem=filesystem, schema=PAGES).to_table(["doc_id", "page"])
    return _pages(table)


def check_exactly_once(output: Output, documents: Sequence[DocumentRow]) -> None:
    """Every page of every document in one row, every object in one documents row."""
    expected = Counter({(row.doc_id, page): 1 for row in documents for page in range(1, (row.pages or 0) + 1)})
    assert Counter(_pages(read_pages(output, ["doc_id", "page"]))) == expected
    assert Counter(glob_pages(output)) == expected

    objects = Counter({(row.uri, row.version): 1 for row in documents})
    plans = read_documents(output).select(["uri", "version"]).to_pylist()
    assert Counter((row["uri"], row["version"]) for row in plans) == objects
    files = [pq.read_table(io.BytesIO(get(uri))) for uri in find(join(output.uri, "documents"), ".parquet")]
    assert Counter((row["uri"], row["version"]) for table in files for row in table.to_pylist()) == objects

    now = current_files(output)
    assert set(now.by_unit) == {unit.unit_id for unit in planned_units(output)}
    for file in now.files:
        data = get(join(output.uri, file.file))
        assert checksum_holds(data)
        assert len(data) == file.bytes


def _pages(table: object) -> list[tuple[str, int]]:
    return [(row["doc_id"], row["page"]) for row in table.to_pylist()]  # type: ignore[attr-defined]
