"""Lists of objects too long to ask the store for: S3 Inventory reports, and tables of URIs as CSV or Parquet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from urllib.parse import unquote_plus

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from rtprune.errors import UsageError
from rtprune.scratch import scratch
from rtprune.store import get, is_remote, join, open_filesystem

SUFFIXES = (".csv", ".csv.gz", ".parquet")
MANIFEST = "manifest.json"
SLICE_ROWS = 10_000
HEADER_BYTES = 2**16
MEMORY = "64MB"  # for DuckDB; what needs more goes to disk

#: Names under which a column is known: to AWS in CSV, to AWS in Parquet and ORC, to us.
ALIASES = {
    "bucket": ("Bucket", "bucket"),
    "key": ("Key", "key"),
    "uri": ("uri", "URI", "url"),
    "size": ("Size", "size"),
    "version": ("ETag", "e_tag", "etag", "version"),
    "latest": ("IsLatest", "is_latest"),
    "deleted": ("IsDeleteMarker", "is_delete_marker"),
}

LISTED = pa.schema([("uri", pa.string()), ("size", pa.int64()), ("version", pa.string())])


def is_inventory(source: str) -> bool:
    """Whether ``source`` is called as an inventory is."""
    return source.lower().endswith(SUFFIXES) or source.rsplit("/", 1)[-1] == MANIFEST


def read_inventory(source: str) -> Iterator[tuple[str, int, str]]:
    """(URI, size, version) of every object in an inventory, sorted by URI, each once; sorted on disk if it is long.

    Args:
        source: the ``manifest.json`` of an S3 Inventory report (CSV, Parquet or ORC), or one table, ``.csv`` with a
            header, ``.csv.gz`` or ``.parquet``, with a column ``uri``, or ``bucket`` and ``key``; ``size`` and ``etag``
            where it has them.

    Raises:
        UsageError: it cannot be read, has no such columns, or a part of it is damaged.
        StoreError: the store does not answer.
    """
    with scratch() as folder:
        options: Any = {"memory_limit": MEMORY, "threads": 1, "temp_directory": folder}
        with duckdb.connect(f"{folder}/inventory.duckdb", config=options) as tables:
            tables.execute("CREATE TABLE listed (uri VARCHAR, size BIGINT, version VARCHAR)")
            for part in _parts(source):
                tables.register("part", part)
                tables.execute("INSERT INTO listed SELECT * FROM part").fetchall()
                tables.unregister("part")
            rows = tables.execute("SELECT uri, size, version FROM listed ORDER BY uri, rowid")
            before = None
            while some := rows.fetchmany(SLICE_ROWS):
                for row in some:
                    if row[0] != before:
                        yield row
                    before = row[0]


def _parts(source: str) -> Iterator[pa.Table]:
    """Tables of columns `LISTED`, in the order of the inventory."""
    try:
        if source.rsplit("/", 1)[-1] == MANIFEST:
            yield from _reported(source)
        else:
            form = "parquet" if source.lower().endswith(".parquet") else "csv"
            packed = source.lower().endswith(".gz")
            for part in _tables(_opener(source), form, packed=packed):
                yield _objects(part, source, encoded=False)
    except FileNotFoundError as error:
        raise UsageError(f"the inventory {source} or a part of it does not exist", "check its path") from error
    except (pa.ArrowException, OSError, EOFError) as error:
        raise UsageError(f"the inventory {source} cannot be read: {' '.join(str(error).split())[:200]}") from error


def _reported(source: str) -> Iterator[pa.Table]:
    """The objects in an S3 Inventory report."""
    try:
        manifest = json.loads(get(source))
        form = str(manifest["fileFormat"]).lower()
        bucket = str(manifest["destinationBucket"]).rsplit(":", 1)[-1]
        names = [name.strip() for name in str(manifest.get("fileSchema", "")).split(",")]
        files = [(str(file["key"]), file.get("MD5checksum")) for file in manifest["files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{source} is not the manifest of an S3 Inventory report") from error
    for key, checksum in files:
        uri = join(f"s3://{bucket}", key)
        data = get(uri)
        if checksum and hashlib.md5(data, usedforsecurity=False).hexdigest() != checksum:
            raise UsageError(f"{uri}, a part of the inventory {source}, is damaged: its MD5 is not {checksum}")
        for part in _tables(partial(pa.BufferReader, data), form, packed=form == "csv", names=names):
            yield _objects(part, uri, encoded=form == "csv")


def _opener(source: str) -> Callable[[], pa.NativeFile]:
    """What opens an object as a file; one on a disk is not loaded as a whole."""
    return (
        partial(pa.BufferReader, get(source)) if is_remote(source) else partial(pa.OSFile, open_filesystem(source)[1])
    )


def _tables(
    opened: Callable[[], pa.NativeFile], form: str, *, packed: bool, names: list[str] | None = None
) -> Iterator[pa.Table]:
    """The rows in a file, some thousand at a time.

    Args:
        form: "csv", "orc", or anything else for Parquet.
        packed: whether it is compressed by gzip.
        names: of the columns, where a CSV file has no header.
    """
    if form == "csv":

        def stream() -> pa.NativeFile:
            return pa.CompressedInputStream(opened(), "gzip") if packed else opened()

        named = names or _header(stream())
        text = pacsv.ConvertOptions(column_types=dict.fromkeys(named, pa.string()), strings_can_be_null=True)
        with pacsv.open_csv(stream(), pacsv.ReadOptions(column_names=names), convert_options=text) as batches:
            yield from (pa.Table.from_batches([batch]) for batch in batches)
    elif form == "orc":
        import pyarrow.orc as orc

        stripes = orc.ORCFile(opened())
        yield from (pa.Table.from_batches([stripes.read_stripe(number)]) for number in range(stripes.nstripes))
    else:
        batches = pq.ParquetFile(opened()).iter_batches(SLICE_ROWS)
        yield from (pa.Table.from_batches([batch]) for batch in batches)


def _header(file: pa.NativeFile) -> list[str]:
    first: bytes = file.read(HEADER_BYTES).split(b"\n", 1)[0]
    return first.decode("utf-8-sig", "replace").strip().replace('"', "").split(",")


def _objects(table: pa.Table, source: str, *, encoded: bool) -> pa.Table:
    """``table`` brought to columns `LISTED`; markers of folders and deleted versions left out.

    Args:
        encoded: whether keys are URL-encoded, as in CSV reports.
    """
    columns = {ours: name for ours, names in ALIASES.items() for name in names if name in table.column_names}
    for flag, wanted in (("latest", "true"), ("deleted", "false")):
        if flag in columns:
            table = table.filter(pc.equal(pc.utf8_lower(_text(table.column(columns[flag]))), wanted))
    if "uri" in columns:
        uris = _text(table.column(columns["uri"]))
    elif "bucket" in columns and "key" in columns:
        keys = _text(table.column(columns["key"]))
        if encoded:
            keys = pa.array([unquote_plus(key) for key in keys.to_pylist()], pa.string())
        uris = pc.binary_join_element_wise("s3:/", _text(table.column(columns["bucket"])), keys, "/")
    else:
        raise UsageError(
            f"the inventory {source} has no column 'uri', nor 'bucket' and 'key'",
            f"it has: {', '.join(table.column_names)}",
        )
    nothing = pa.nulls(len(table), pa.string())
    given = table.column(columns["size"]) if "size" in columns else nothing
    sizes = pc.fill_null(_text(given).cast(pa.int64()), 0)
    etags = pc.utf8_trim(_text(table.column(columns["version"])) if "version" in columns else nothing, '"')
    listed = pa.table({"uri": uris, "size": sizes, "version": pc.coalesce(etags, _text(sizes))}, LISTED)
    folder = pc.and_(pc.equal(sizes, 0), pc.ends_with(uris, "/"))
    return listed.filter(pc.and_(pc.invert(folder), pc.is_valid(uris)))


def _text(column: Any) -> Any:
    return column.cast(pa.string())
