"""The columns that readers rely on."""

from __future__ import annotations

import io
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rtprune.dataset.parquet import parquet_bytes
from rtprune.dataset.schema import (
    DOCUMENTS,
    PAGES,
    RUNS,
    SCHEMA_VERSION,
    DocumentRow,
    PageRow,
    RegionRow,
    RunRow,
    columns,
    document_table,
    page_table,
)

FULL = PageRow(
    doc_id="d" * 64,
    uri="s3://in/Grüße.pdf",
    page=2,
    status="ok",
    model="mini",
    mode="tiny",
    text="Zeile\n<b>ﬁ 漢字 \u0000 🙂",
    regions=(RegionRow("title", 0, 1, 998, 999, "Überschrift"), RegionRow("table", 5, 6, 7, 8, "")),
    finish_reason="eos",
    visual_tokens_before=73,
    visual_tokens_after=60,
    keep_ratio=60 / 73,
    similarity=0.1 + 0.2,
    density=1 / 3,
    prompt_tokens=65,
    output_tokens=12,
    decode_steps=4,
    audit_distance=0.25,
    audit_output_tokens=16,
    strategy="default",
    drafted_tokens=10,
    accepted_tokens=8,
    render_ms=1.25,
    encode_ms=2.5,
    prune_ms=0.1,
    prefill_ms=3.3,
    decode_ms=4.4,
    attempts=2,
    reason=None,
    message=None,
)
FAILED = PageRow("e" * 64, "s3://in/b.pdf", 1, "failed", "mini", reason="damaged", message="no such object")


def written(*rows: PageRow) -> pq.ParquetFile:
    return pq.ParquetFile(io.BytesIO(parquet_bytes(page_table(rows, run_id="r1", config_hash="c"))))


def test_columns_are_those_that_readers_were_promised() -> None:
    assert " ".join(PAGES.names) == (
        "doc_id uri page status text regions finish_reason model mode strategy visual_tokens_before "
        "visual_tokens_after keep_ratio similarity density prompt_tokens output_tokens decode_steps drafted_tokens "
        "accepted_tokens mean_log_probability weakest_log_probability weakest_at audit_distance audit_output_tokens "
        "scale render_ms encode_ms prune_ms prefill_ms decode_ms attempts reason message "
        "run_id config_hash schema_version"
    )
    assert " ".join(DOCUMENTS.names) == (
        "uri doc_id version size kind pages status reason message discovered_at run_id config_hash schema_version"
    )
    assert {"run_id", "started_at", "last_seen_at", "ended_at", "status", "source", "settings"} <= set(RUNS.names)


@pytest.mark.parametrize(("schema", "row"), [(PAGES, PageRow), (DOCUMENTS, DocumentRow), (RUNS, RunRow)])
def test_every_field_of_a_row_has_a_column_and_the_rest_are_stamps(schema: pa.Schema, row: type) -> None:
    names = {field.name for field in fields(row)}
    assert names <= set(schema.names)
    assert set(schema.names) - names <= {"run_id", "config_hash", "schema_version", "discovered_at"}


@pytest.mark.parametrize("row", [FULL, FAILED])
def test_every_column_of_a_page_comes_back_as_it_was(row: PageRow) -> None:
    (read,) = written(row).read().to_pylist()
    expected = asdict(row) | {"run_id": "r1", "config_hash": "c", "schema_version": SCHEMA_VERSION}
    expected["regions"] = list(expected["regions"])
    assert read == expected


def test_text_that_is_no_unicode_does_not_lose_its_page() -> None:
    row = replace(FULL, text="a\ud800b", regions=(RegionRow("t", 1, 2, 3, 4, "\udfff"),))
    (read,) = written(row).read().to_pylist()
    assert (read["text"], read["regions"][0]["text"]) == ("a\\ud800b", "\\udfff")


def test_a_document_that_could_not_be_read_comes_back_with_its_nulls() -> None:
    row = DocumentRow("s3://in/x", "v", 12, "failed", reason="unreadable", message="gone")
    at = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
    data = parquet_bytes(document_table([row], run_id="r1", config_hash="c", discovered_at=at))
    (read,) = pq.read_table(io.BytesIO(data)).to_pylist()
    stamps = {"discovered_at": at, "run_id": "r1", "config_hash": "c", "schema_version": SCHEMA_VERSION}
    assert read == asdict(row) | stamps


def test_the_schema_version_is_in_the_metadata_and_in_every_row() -> None:
    file = written(FULL, FAILED)
    assert file.schema_arrow.metadata[b"rtprune.schema_version"] == str(SCHEMA_VERSION).encode()
    assert file.schema_arrow.metadata[b"rtprune.table"] == b"pages"
    assert file.read(["schema_version"]).column(0).to_pylist() == [SCHEMA_VERSION] * 2


@pytest.mark.parametrize("schema", [PAGES, DOCUMENTS, RUNS])
def test_every_column_has_a_meaning_that_says_more_than_its_name(schema: pa.Schema) -> None:
    documented = columns(schema)
    assert [column.name for column in documented if "." not in column.name] == schema.names
    assert all(column.meaning.endswith(".") for column in documented)
    assert all(column.nullable == schema.field(column.name).nullable for column in documented if "." not in column.name)
    times = [column for column in documented if column.name.endswith("_ms")]
    assert all("milliseconds" in column.meaning for column in times)


def test_the_fields_of_a_region_are_documented_after_it() -> None:
    documented = {column.name: column for column in columns(PAGES)}
    assert (documented["regions"].type, documented["regions.x1"].type) == ("list of struct", "int16")
    assert "0 to 999" in documented["regions.x1"].meaning
    names = list(documented)
    assert names[names.index("regions") + 1] == "regions.label"


def test_a_row_without_its_key_is_refused() -> None:
    with pytest.raises((pa.ArrowException, ValueError)):
        parquet_bytes(page_table([PageRow(None, "u", 1, "ok", "mini")], run_id="r", config_hash="c"))  # type: ignore[arg-type]


def test_a_number_that_does_not_fit_is_refused_not_wrapped() -> None:
    bad = PageRow("d", "u", 1, "ok", "mini", regions=(RegionRow("t", 0, 0, 70_000, 1, ""),))
    with pytest.raises((pa.ArrowException, ValueError, OverflowError)):
        page_table([bad], run_id="r", config_hash="c")
