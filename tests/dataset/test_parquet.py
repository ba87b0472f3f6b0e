"""Files that every reader understands, and that know when a byte of them has changed."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

from rtprune.dataset.parquet import checked, checksum_holds, difference, parquet_bytes, units_in
from rtprune.dataset.schema import DOCUMENTS, PAGES, RUNS, PageRow, RegionRow, page_table
from rtprune.errors import RTPruneError

FULL = PageRow("d" * 64, "in/a.pdf", 1, "ok", "mini", text="Zeile", regions=(RegionRow("t", 0, 1, 998, 999, "x"),))
FAILED = PageRow("e" * 64, "in/b.pdf", 1, "failed", "mini", message="no such object")
UNITS = ("0123456789abcdef01234567", "f" * 24)


def file_of(*rows: PageRow) -> bytes:
    return parquet_bytes(page_table(rows, run_id="r1", config_hash="c"), UNITS)


def written(*rows: PageRow) -> pq.ParquetFile:
    return pq.ParquetFile(io.BytesIO(file_of(*rows)))


def test_a_file_knows_when_any_of_its_bytes_has_changed() -> None:
    data = file_of(FULL, FAILED)
    assert checksum_holds(data)
    assert checked(data, "there") is data
    bits = random.Random(1)
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1 << bits.randrange(8)
        assert not checksum_holds(bytes(changed)), at


@pytest.mark.parametrize("data", [b"", b"PAR1", b"x" * 100, b"PAR1" + b"\xff" * 8 + b"PAR1", b"PAR1\0\0\0\0PAR1"])
def test_what_is_no_file_of_ours_has_no_checksum_that_holds(data: bytes) -> None:
    assert not checksum_holds(data)
    with pytest.raises(RTPruneError, match=r"s3://b/x\.parquet is damaged"):
        checked(data, "s3://b/x.parquet")


def test_a_file_cut_short_or_longer_or_of_another_writer_has_no_checksum_that_holds() -> None:
    data = file_of(FULL)
    foreign = io.BytesIO()
    pq.write_table(page_table([FULL], run_id="r1", config_hash="c"), foreign)
    for other in (data[:-1], data[1:], data + b"PAR1", foreign.getvalue()):
        assert not checksum_holds(other)


def test_other_readers_pass_over_the_checksum(tmp_path: Path) -> None:
    for number in range(3):
        row = PageRow("d", "u", number, "ok", "mini", text=f"text {number}")
        (tmp_path / f"{number}.parquet").write_bytes(parquet_bytes(page_table([row], run_id="r", config_hash="c")))
    with duckdb.connect() as database:
        rows = database.execute(f"SELECT page, text FROM '{tmp_path}/**/*.parquet' ORDER BY page").fetchall()
    assert rows == [(number, f"text {number}") for number in range(3)]
    assert pads.dataset(tmp_path, format="parquet").to_table(filter=pads.field("page") > 0).num_rows == 2


@pytest.mark.parametrize("schema", [PAGES, DOCUMENTS, RUNS])
def test_a_file_has_the_columns_of_its_table_and_their_meanings(schema: pa.Schema) -> None:
    read = pq.read_schema(io.BytesIO(parquet_bytes(schema.empty_table())))
    assert read.equals(schema)
    meanings = json.loads(read.metadata[b"rtprune.columns"])
    assert meanings == {field.name: field.metadata[b"description"].decode() for field in schema}


def test_a_file_says_which_units_it_holds() -> None:
    assert units_in(written(FULL).schema_arrow) == UNITS
    assert units_in(PAGES) == ()
    assert difference(written(FULL).schema_arrow, PAGES) is None


def test_the_footer_is_no_larger_than_what_a_unit_of_eight_short_pages_holds() -> None:
    words = random.Random(1)
    text = [" ".join(f"{words.getrandbits(20):x}" for _ in range(200)) for _ in range(8)]
    data = file_of(*(PageRow("d", "u", page, "ok", "mini", text=each) for page, each in enumerate(text, start=1)))
    footer = int.from_bytes(data[-8:-4], "little")
    assert footer < len(data) - footer


def test_files_are_compressed_indexed_and_keep_page_text_out_of_the_footer() -> None:
    group = written(FULL, FAILED).metadata.row_group(0)
    columns = {group.column(number).path_in_schema: group.column(number) for number in range(group.num_columns)}
    assert {column.compression for column in columns.values()} == {"ZSTD"}
    assert columns["doc_id"].has_column_index
    assert columns["doc_id"].is_stats_set
    assert not columns["text"].is_stats_set
    assert not columns["regions.list.element.text"].is_stats_set
    assert "PLAIN_DICTIONARY" in columns["status"].encodings or "RLE_DICTIONARY" in columns["status"].encodings
    assert not any("DICTIONARY" in encoding for encoding in columns["text"].encodings)


def test_row_groups_stay_small_enough_to_be_read_one_by_one() -> None:
    rows = [PageRow("d", "u", page, "ok", "mini") for page in range(1, 20_001)]
    metadata = written(*rows).metadata
    assert [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)] == [16_384, 3_616]
