"""The dataset's rows and columns, versioned: the one place that says what a page, a document and a run are in Parquet.

A worker fills the row classes; the columns that say where a row comes from (``run_id``, ``config_hash``,
``schema_version``) are stamped on when the rows become a table, so that no caller can get them wrong.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from rtprune.errors import Reason

#: Raised by one whenever a column is added, dropped or changes its meaning.
SCHEMA_VERSION = 1

PageStatus = Literal["ok", "empty", "truncated", "loop", "failed", "skipped"]
DocumentStatus = Literal["ok", "failed", "duplicate"]
RunStatus = Literal["running", "finished", "stopped", "failed", "died"]


@dataclass(frozen=True, slots=True)
class RegionRow:
    """One region of a page: a label, its box in thousandths of the picture's width and height (0..999), its text."""

    label: str
    x1: int
    y1: int
    x2: int
    y2: int
    text: str


@dataclass(frozen=True, slots=True)
class PageRow:
    """One page as read. What was never reached (a failed page has no tokens) is ``None``.

    Token counts cover the whole visual sequence; ``keep_ratio`` is after / before; times are milliseconds;
    ``page`` counts from 1; ``attempts`` from 1. ``decode_steps`` are passes of the decoder, fewer than the output's
    tokens by the ``accepted_tokens`` of the ``drafted_tokens`` that were guessed. ``strategy`` is the way of
    reading that gave the text. ``audit_distance`` is the normalised edit distance of the text to that of the same page
    unpruned, where it was read both ways. ``scale`` is below 1 where the picture was made smaller than asked for,
    because the page is so large.
    """

    doc_id: str
    uri: str
    page: int
    status: PageStatus
    model: str
    mode: str | None = None
    strategy: str | None = None
    text: str | None = None
    regions: tuple[RegionRow, ...] = ()
    finish_reason: str | None = None
    visual_tokens_before: int | None = None
    visual_tokens_after: int | None = None
    keep_ratio: float | None = None
    similarity: float | None = None
    density: float | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    decode_steps: int | None = None
    drafted_tokens: int | None = None
    accepted_tokens: int | None = None
    audit_distance: float | None = None
    audit_output_tokens: int | None = None
    scale: float | None = None
    render_ms: float | None = None
    encode_ms: float | None = None
    prune_ms: float | None = None
    prefill_ms: float | None = None
    decode_ms: float | None = None
    attempts: int = 1
    reason: Reason | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """One object of the source, in one version.

    ``status`` is "ok" (its pages are in the dataset, or on their way), "failed" (it could not be opened: no pages), or
    "duplicate" (the same bytes are read under another URI or version; join ``pages`` by ``doc_id``). Whoever inspects
    the source says "ok" or "failed"; the plan finds the duplicates.

    ``doc_id`` is the SHA-256 of the bytes in hexadecimal, ``None`` where they could not be read.
    """

    uri: str
    version: str
    size: int
    status: DocumentStatus
    doc_id: str | None = None
    kind: str | None = None
    pages: int | None = None
    reason: Reason | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run: what was asked for, when, and what came of it. Counts are of this run alone; times are in UTC.

    A run that was killed says "running" until a later one finds it dead; then it says "died".
    ``settings`` become JSON in the table; a password among them is left out.
    """

    run_id: str
    started_at: datetime
    ended_at: datetime | None
    status: RunStatus
    source: str
    settings: Mapping[str, Any]
    documents: int = 0
    documents_failed: int = 0
    units: int = 0
    pages: int = 0
    pages_failed: int = 0
    visual_tokens_before: int = 0
    visual_tokens_after: int = 0
    message: str | None = None


def _column(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


def _schema(table: str, *columns: pa.Field) -> pa.Schema:
    stamps = {"run_id": pa.string(), "config_hash": pa.string(), "schema_version": pa.int32()}
    named = {column.name for column in columns}
    return pa.schema(
        [*columns, *(_column(name, kind) for name, kind in stamps.items() if name not in named)],
        metadata={"rtprune.table": table, "rtprune.schema_version": str(SCHEMA_VERSION)},
    )


_UTC = pa.timestamp("us", tz="UTC")

REGION = pa.struct(
    [
        _column("label", pa.string()),
        _column("x1", pa.int16()),
        _column("y1", pa.int16()),
        _column("x2", pa.int16()),
        _column("y2", pa.int16()),
        _column("text", pa.string()),
    ]
)

PAGES = _schema(
    "pages",
    _column("doc_id", pa.string()),
    _column("uri", pa.string()),
    _column("page", pa.int32()),
    _column("status", pa.string()),
    pa.field("text", pa.string()),
    pa.field("regions", pa.list_(_column("element", REGION)), nullable=False),
    pa.field("finish_reason", pa.string()),
    _column("model", pa.string()),
    pa.field("mode", pa.string()),
    pa.field("strategy", pa.string()),
    pa.field("visual_tokens_before", pa.int32()),
    pa.field("visual_tokens_after", pa.int32()),
    pa.field("keep_ratio", pa.float64()),
    pa.field("similarity", pa.float64()),
    pa.field("density", pa.float64()),
    pa.field("prompt_tokens", pa.int32()),
    pa.field("output_tokens", pa.int32()),
    *(pa.field(name, pa.int32()) for name in ("decode_steps", "drafted_tokens", "accepted_tokens")),
    pa.field("audit_distance", pa.float64()),
    pa.field("audit_output_tokens", pa.int32()),
    pa.field("scale", pa.float64()),
    pa.field("render_ms", pa.float64()),
    pa.field("encode_ms", pa.float64()),
    pa.field("prune_ms", pa.float64()),
    pa.field("prefill_ms", pa.float64()),
    pa.field("decode_ms", pa.float64()),
    _column("attempts", pa.int32()),
    pa.field("reason", pa.string()),
    pa.field("message", pa.string()),
)

DOCUMENTS = _schema(
    "documents",
    _column("uri", pa.string()),
    pa.field("doc_id", pa.string()),
    _column("version", pa.string()),
    _column("size", pa.int64()),
    pa.field("kind", pa.string()),
    pa.field("pages", pa.int32()),
    _column("status", pa.string()),
    pa.field("reason", pa.string()),
    pa.field("message", pa.string()),
    _column("discovered_at", _UTC),
)

RUNS = _schema(
    "runs",
    _column("run_id", pa.string()),
    _column("started_at", _UTC),
    pa.field("ended_at", _UTC),
    _column("status", pa.string()),
    _column("source", pa.string()),
    _column("settings", pa.string()),
    *(_column(name, pa.int64()) for name in ("documents", "documents_failed", "units", "pages", "pages_failed")),
    *(_column(name, pa.int64()) for name in ("visual_tokens_before", "visual_tokens_after")),
    pa.field("message", pa.string()),
)

#: Columns with few distinct values in a file: the only ones worth a dictionary.
_REPEATING = frozenset(
    {"doc_id", "uri", "status", "finish_reason", "model", "mode", "kind", "attempts", "reason"}
    | {"run_id", "config_hash", "schema_version"}
)
#: Columns whose smallest and largest value help no query, and would put page text into the footer.
_WITHOUT_STATISTICS = frozenset({"text", "message", "settings"})

#: The default of a million rows would hold gigabytes of page text in one row group.
ROW_GROUP_ROWS = 16_384


def page_table(rows: Sequence[PageRow], *, run_id: str, config_hash: str) -> pa.Table:
    """``rows`` as a table of schema ``PAGES``, in their order."""
    return _table(PAGES, map(_record, rows), run_id=run_id, config_hash=config_hash)


def document_table(rows: Sequence[DocumentRow], *, run_id: str, config_hash: str, discovered_at: datetime) -> pa.Table:
    """``rows`` as a table of schema ``DOCUMENTS``, in their order."""
    records = (_record(row) | {"discovered_at": discovered_at} for row in rows)
    return _table(DOCUMENTS, records, run_id=run_id, config_hash=config_hash)


def run_table(row: RunRow, *, config_hash: str) -> pa.Table:
    """``row`` as a table of schema ``RUNS``."""
    settings = {name: value for name, value in row.settings.items() if "password" not in name}
    record = _record(row) | {"settings": json.dumps(settings, sort_keys=True)}
    return _table(RUNS, [record], run_id=row.run_id, config_hash=config_hash)


def _record(row: Any) -> dict[str, Any]:
    """As ``asdict`` for what a row holds, several times faster: there are millions."""
    return {field.name: getattr(row, field.name) for field in fields(row)}


def _table(schema: pa.Schema, records: Iterable[dict[str, Any]], *, run_id: str, config_hash: str) -> pa.Table:
    stamps = {"run_id": run_id, "config_hash": config_hash, "schema_version": SCHEMA_VERSION}
    rows = [{name: _storable_value(value) for name, value in record.items()} | stamps for record in records]
    return pa.Table.from_pylist(rows, schema=schema)


def storable(text: str) -> str:
    """``text`` as Parquet can hold it: lone surrogates, as in file names that are not UTF-8, become ``\\udcxx``."""
    return text.encode("utf-8", "backslashreplace").decode()


def _storable_value(value: Any) -> Any:
    match value:
        case str():
            return storable(value)
        case RegionRow():
            return {name: _storable_value(item) for name, item in _record(value).items()}
        case tuple():
            return [_storable_value(item) for item in value]
    return value


def parquet_bytes(table: pa.Table) -> bytes:
    """``table`` as one Parquet file in memory, so that it can be written in a single put."""
    sink = io.BytesIO()
    with parquet_writer(sink, table.schema) as writer:
        writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
    return sink.getvalue()


def parquet_writer(sink: io.BytesIO, schema: pa.Schema) -> pq.ParquetWriter:
    """Writes tables of ``schema`` to ``sink`` the way all files of the dataset are written."""
    return pq.ParquetWriter(
        sink,
        schema,
        compression="zstd",
        use_dictionary=[name for name in schema.names if name in _REPEATING],
        write_statistics=[
            field.name
            for field in schema
            if field.name not in _WITHOUT_STATISTICS and not pa.types.is_nested(field.type)
        ],
        write_page_index=True,
        write_page_checksum=True,
    )


def row_count(data: bytes) -> int:
    """Number of rows in a Parquet file."""
    return int(pq.read_metadata(pa.BufferReader(data)).num_rows)
