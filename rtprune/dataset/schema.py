"""The dataset's rows and columns, versioned: every column, its meaning and its unit.

A worker fills the row classes; the columns that say where a row comes from (``run_id``, ``config_hash``,
``schema_version``) are stamped on when the rows become a table, so that no caller can get them wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal

import pyarrow as pa

from rtprune.errors import Reason

#: Raised by one whenever a column is added, dropped or changes its meaning.
SCHEMA_VERSION = 2

PageStatus = Literal["ok", "empty", "truncated", "loop", "failed", "skipped"]
DocumentStatus = Literal["ok", "failed", "duplicate"]
RunStatus = Literal["running", "finished", "stopped", "failed"]


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
    """One page as read; the fields are the columns of ``PAGES``. What was never reached is ``None``."""

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
    mean_log_probability: float | None = None
    weakest_log_probability: float | None = None
    weakest_at: int | None = None
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
    """One object of the source, in one version; the fields are columns of ``DOCUMENTS``.

    Whoever inspects the source says "ok" or "failed"; the plan marks the duplicates.
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
    """One run: what was asked for, when, and what came of it; the fields are the columns of ``RUNS``.

    ``settings`` become JSON in the table; a password among them is left out.
    """

    run_id: str
    started_at: datetime
    last_seen_at: datetime
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


def _column(name: str, kind: pa.DataType, meaning: str) -> pa.Field:
    """A column that has a value in every row."""
    return pa.field(name, kind, nullable=False, metadata={"description": meaning})


def _optional(name: str, kind: pa.DataType, meaning: str) -> pa.Field:
    return pa.field(name, kind, metadata={"description": meaning})


_STAMPS = (
    _column("run_id", pa.string(), "The run that wrote the row."),
    _column("config_hash", pa.string(), "Start of the SHA-256 of the configuration that the row was made with."),
    _column("schema_version", pa.int32(), f"Version of these columns: {SCHEMA_VERSION}."),
)


def _schema(table: str, *columns: pa.Field) -> pa.Schema:
    named = {column.name for column in columns}
    return pa.schema(
        [*columns, *(stamp for stamp in _STAMPS if stamp.name not in named)],
        metadata={"rtprune.table": table, "rtprune.schema_version": str(SCHEMA_VERSION)},
    )


_UTC = pa.timestamp("us", tz="UTC")
_MS = "milliseconds; a batch's time is shared evenly over its pages."

REGION = pa.struct(
    [
        _column("label", pa.string(), "What the model calls the region: title, text, table, image, ..."),
        _column("x1", pa.int16(), "Left edge, thousandths of the picture's width, 0 to 999."),
        _column("y1", pa.int16(), "Upper edge, thousandths of the picture's height, 0 to 999."),
        _column("x2", pa.int16(), "Right edge, thousandths of the picture's width, 0 to 999."),
        _column("y2", pa.int16(), "Lower edge, thousandths of the picture's height, 0 to 999."),
        _column("text", pa.string(), "The region's text."),
    ]
)

PAGES = _schema(
    "pages",
    _column("doc_id", pa.string(), "SHA-256 of the document's bytes, hexadecimal."),
    _column("uri", pa.string(), "The object that the document was read from."),
    _column("page", pa.int32(), "Number of the page in its document, from 1."),
    _column(
        "status",
        pa.string(),
        "ok; empty (no text on the page); truncated (cut at the token limit); loop (cut where it repeated itself); "
        "failed (not read, see reason); skipped (rendered without a model).",
    ),
    _optional("text", pa.string(), "The page's text without location marks; of a page that was cut, the part before."),
    pa.field(
        "regions",
        pa.list_(pa.field("element", REGION, nullable=False)),
        nullable=False,
        metadata={"description": "Parts of the page that the model located, in reading order."},
    ),
    _optional("finish_reason", pa.string(), "Why decoding ended: eos (the model ended), length or loop."),
    _column("model", pa.string(), "The model, with its revision."),
    _optional("mode", pa.string(), "The size of the views that gave the text."),
    _optional(
        "strategy",
        pa.string(),
        "The way of reading that gave the text: default, or, where that looped, unpruned, tiled or sampled.",
    ),
    _optional("visual_tokens_before", pa.int32(), "Visual tokens of the page before pruning, of all views."),
    _optional("visual_tokens_after", pa.int32(), "Visual tokens of the page after pruning, of all views."),
    _optional("keep_ratio", pa.float64(), "visual_tokens_after / visual_tokens_before, 0 to 1."),
    _optional("similarity", pa.float64(), "Mean squared cosine of the page's visual tokens, 0 to 1."),
    _optional("density", pa.float64(), "Share of the page's pixels that lie on an edge, 0 to 1."),
    _optional("prompt_tokens", pa.int32(), "Tokens given to the decoder, visual tokens after pruning included."),
    _optional("output_tokens", pa.int32(), "Tokens that the decoder gave, the end token included."),
    _optional("decode_steps", pa.int32(), "Passes of the decoder that these took, the prefill included."),
    _optional("drafted_tokens", pa.int32(), "Output tokens that were guessed ahead."),
    _optional("accepted_tokens", pa.int32(), "Guessed tokens that were right; each saves a pass."),
    _optional(
        "mean_log_probability",
        pa.float64(),
        "How sure the decoder was: log-probability of an output token, nats, mean over all; 0 is certain.",
    ),
    _optional(
        "weakest_log_probability",
        pa.float64(),
        "The same over those 16 output tokens in a row of which it was least sure.",
    ),
    _optional("weakest_at", pa.int32(), "Characters of the text in front of these 16 tokens."),
    _optional(
        "audit_distance",
        pa.float64(),
        "Normalised edit distance to the text of the same page unpruned, 0 to 1, where it was read both ways.",
    ),
    _optional("audit_output_tokens", pa.int32(), "Output tokens of the unpruned reading, where there was one."),
    _optional(
        "scale", pa.float64(), "Size of the rendered picture to the one asked for; below 1 where the page is too large."
    ),
    _optional("render_ms", pa.float64(), "Page to picture, milliseconds."),
    _optional("encode_ms", pa.float64(), f"Picture to visual tokens, {_MS}"),
    _optional("prune_ms", pa.float64(), "Pruning, milliseconds."),
    _optional("prefill_ms", pa.float64(), f"Prompt to first token, {_MS}"),
    _optional("decode_ms", pa.float64(), f"All further tokens, {_MS}"),
    _column("attempts", pa.int32(), "The attempt that gave the row, from 1."),
    _optional("reason", pa.string(), "Why the page failed, one of the reasons in rtprune.errors."),
    _optional("message", pa.string(), "Why the page failed, in words."),
)

DOCUMENTS = _schema(
    "documents",
    _column("uri", pa.string(), "The object."),
    _optional("doc_id", pa.string(), "SHA-256 of its bytes, hexadecimal; null where they could not be read."),
    _column("version", pa.string(), "Changes when the object's content does: its ETag, or its time and size."),
    _column("size", pa.int64(), "Bytes."),
    _optional("kind", pa.string(), "pdf or image."),
    _optional("pages", pa.int32(), "Number of pages."),
    _column(
        "status",
        pa.string(),
        "ok (its pages are planned); failed (it could not be opened, see reason); duplicate (the same bytes are read "
        "from another object: join pages by doc_id).",
    ),
    _optional("reason", pa.string(), "Why the object could not be opened, one of the reasons in rtprune.errors."),
    _optional("message", pa.string(), "Why the object could not be opened, in words."),
    _column("discovered_at", _UTC, "When the object was planned, UTC."),
)

RUNS = _schema(
    "runs",
    _column("run_id", pa.string(), "The run."),
    _column("started_at", _UTC, "When the run began, UTC."),
    _column("last_seen_at", _UTC, "When the run last wrote this row, UTC; renewed while it works."),
    _optional("ended_at", _UTC, "When the run ended, UTC."),
    _column(
        "status",
        pa.string(),
        "running, finished, stopped (on request) or failed. A run that was killed says running for ever: "
        "its last_seen_at is old.",
    ),
    _column("source", pa.string(), "What was to be read."),
    _column("settings", pa.string(), "The settings as JSON, without passwords."),
    _column("documents", pa.int64(), "Objects planned by this run."),
    _column("documents_failed", pa.int64(), "Objects among them that could not be opened."),
    _column("units", pa.int64(), "Units committed by this run."),
    _column("pages", pa.int64(), "Pages in these units."),
    _column("pages_failed", pa.int64(), "Pages among them with status failed."),
    _column("visual_tokens_before", pa.int64(), "Visual tokens of these pages before pruning."),
    _column("visual_tokens_after", pa.int64(), "Visual tokens of these pages after pruning."),
    _optional("message", pa.string(), "Why the run failed, in words."),
)


@dataclass(frozen=True, slots=True)
class Column:
    """A column as documented."""

    name: str
    type: str
    nullable: bool
    meaning: str


def columns(schema: pa.Schema) -> list[Column]:
    """The columns of ``PAGES``, ``DOCUMENTS`` or ``RUNS``; the fields of ``regions`` follow it as ``regions.label``."""
    return [column for field in schema for column in _documented(field, "")]


def _documented(field: pa.Field, prefix: str) -> Iterator[Column]:
    nested = pa.types.is_list(field.type)
    kind = "list of struct" if nested else str(field.type)
    yield Column(prefix + field.name, kind, field.nullable, field.metadata[b"description"].decode())
    if nested:
        for part in field.type.value_type:
            yield from _documented(part, f"{prefix}{field.name}.")


def page_table(rows: Sequence[PageRow], *, run_id: str, config_hash: str) -> pa.Table:
    """``rows`` as a table of schema ``PAGES``, in their order."""
    return _table(PAGES, rows, run_id=run_id, config_hash=config_hash)


def document_table(rows: Sequence[DocumentRow], *, run_id: str, config_hash: str, discovered_at: datetime) -> pa.Table:
    """``rows`` as a table of schema ``DOCUMENTS``, in their order."""
    return _table(DOCUMENTS, rows, run_id=run_id, config_hash=config_hash, discovered_at=discovered_at)


def run_table(row: RunRow, *, config_hash: str) -> pa.Table:
    """``row`` as a table of schema ``RUNS``."""
    settings = {name: value for name, value in row.settings.items() if "password" not in name}
    stamps = {"run_id": row.run_id, "config_hash": config_hash, "settings": json.dumps(settings, sort_keys=True)}
    return _table(RUNS, [row], **stamps)


def _table(schema: pa.Schema, rows: Sequence[Any], **stamps: Any) -> pa.Table:
    """The attributes of ``rows`` as columns of ``schema``; those named in ``stamps`` are the same for every row."""
    stamps["schema_version"] = SCHEMA_VERSION
    return pa.Table.from_arrays([_array(field, rows, stamps) for field in schema], schema=schema)


def _array(field: pa.Field, rows: Sequence[Any], stamps: Mapping[str, Any]) -> pa.Array:
    if field.name in stamps:
        return pa.repeat(pa.scalar(stamps[field.name], field.type), len(rows))
    values = [getattr(row, field.name) for row in rows]
    if pa.types.is_string(field.type) or pa.types.is_nested(field.type):
        values = list(map(_storable_value, values))
    return pa.array(values, field.type)


def storable(text: str) -> str:
    """``text`` as Parquet can hold it: lone surrogates, as in file names that are not UTF-8, become ``\\udcxx``."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _storable_value(value: Any) -> Any:
    match value:
        case str():
            return storable(value)
        case RegionRow():
            return {field.name: _storable_value(getattr(value, field.name)) for field in fields(value)}
        case tuple():
            return [_storable_value(item) for item in value]
    return value
