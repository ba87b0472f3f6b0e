"""Lists of objects too long to ask the store for: S3 Inventory reports, and tables of URIs as CSV or Parquet."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from rtprune.errors import UsageError
from rtprune.store import get, join

SUFFIXES = (".csv", ".csv.gz", ".parquet")
MANIFEST = "manifest.json"
SLICE_ROWS = 10_000

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


@dataclass(frozen=True)
class Listed:
    """An inventory's objects, sorted by URI, each once: some hundred bytes of memory each."""

    table: pa.Table

    def __iter__(self) -> Iterator[tuple[str, int, str]]:
        """(URI, size, version) of each."""
        for start in range(0, len(self.table), SLICE_ROWS):
            columns = (column.to_pylist() for column in self.table.slice(start, SLICE_ROWS).columns)
            yield from zip(*columns, strict=True)


def is_inventory(source: str) -> bool:
    """Whether ``source`` is called as an inventory is."""
    return source.lower().endswith(SUFFIXES) or source.rsplit("/", 1)[-1] == MANIFEST


def read_inventory(source: str) -> Listed:
    """The objects that an inventory names.

    Args:
        source: the ``manifest.json`` of an S3 Inventory report (CSV, Parquet or ORC), or one table, ``.csv`` with a
            header, ``.csv.gz`` or ``.parquet``, with a column ``uri``, or ``bucket`` and ``key``; ``size`` and ``etag``
            where it has them.

    Raises:
        UsageError: it cannot be read, has no such columns, or a part of it is damaged.
        StoreError: the store does not answer.
    """
    try:
        if source.rsplit("/", 1)[-1] == MANIFEST:
            tables = list(_reported(source))
        else:
            tables = [_objects(_table(get(source), source), source, encoded=False)]
    except FileNotFoundError as error:
        raise UsageError(f"the inventory {source} or a part of it does not exist", "check its path") from error
    except (pa.ArrowException, OSError, EOFError) as error:
        raise UsageError(f"the inventory {source} cannot be read: {' '.join(str(error).split())[:200]}") from error
    listed = pa.concat_tables([LISTED.empty_table(), *tables]).sort_by("uri").combine_chunks()
    del tables
    uris = listed.column("uri")
    if len(listed) > 1:
        repeated = pc.equal(uris.slice(1), uris.slice(0, len(uris) - 1))
        listed = listed.filter(pc.invert(pa.chunked_array([pa.array([False]), *repeated.chunks])))
    pa.default_memory_pool().release_unused()  # sorting took a multiple of what is left
    return Listed(listed)


def _reported(source: str) -> Iterator[pa.Table]:
    """The tables of an S3 Inventory report."""
    try:
        manifest = json.loads(get(source))
        kind = str(manifest["fileFormat"]).upper()
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
        if kind == "CSV":
            yield _objects(_csv(gzip.decompress(data), names), uri, encoded=True)
        elif kind == "ORC":
            import pyarrow.orc as orc

            yield _objects(orc.read_table(pa.BufferReader(data)), uri, encoded=False)
        else:
            yield _objects(pq.read_table(pa.BufferReader(data)), uri, encoded=False)


def _table(data: bytes, source: str) -> pa.Table:
    if source.lower().endswith(".parquet"):
        return pq.read_table(pa.BufferReader(data))
    return _csv(gzip.decompress(data) if source.lower().endswith(".gz") else data, None)


def _csv(data: bytes, names: list[str] | None) -> pa.Table:
    text = pacsv.ConvertOptions(
        column_types=dict.fromkeys(names or _header(data), pa.string()), strings_can_be_null=True
    )
    return pacsv.read_csv(io.BytesIO(data), pacsv.ReadOptions(column_names=names), convert_options=text)


def _header(data: bytes) -> list[str]:
    return data.split(b"\n", 1)[0].decode("utf-8-sig", "replace").strip().replace('"', "").split(",")


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
