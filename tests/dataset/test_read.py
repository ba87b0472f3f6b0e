"""What readers see at any time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as pads
import pytest

from rtprune.dataset import (
    DocumentRow,
    Output,
    PageRow,
    commit_unit,
    compact_dataset,
    read_documents,
    read_failures,
    read_pages,
    statistics,
)
from rtprune.dataset.schema import DOCUMENTS, PAGES
from rtprune.errors import Reason, RTPruneError, UsageError
from rtprune.store import delete, find, get, join, open_filesystem, put
from tests.dataset.samples import CONFIG, document, plan, rows_of


def in_order(table: pa.Table) -> pa.Table:
    return table.select(PAGES.names).sort_by([("doc_id", "ascending"), ("page", "ascending")]).combine_chunks()


def test_a_plain_reader_of_the_folder_sees_the_same_rows_as_ours(output: Output) -> None:
    for unit in plan(output, [document("a", 5), document("b", 4)], unit_pages=3, run_id="r1"):
        commit_unit(output, unit, rows_of(unit), "r1")
    filesystem, root = open_filesystem(output.uri)
    plain = pads.dataset(f"{root}/pages", filesystem=filesystem, format="parquet", schema=PAGES).to_table()
    ours = read_pages(output.uri)
    assert ours.num_rows == 9
    assert ours.schema.equals(PAGES, check_metadata=True)
    assert in_order(plain).equals(in_order(ours))


def test_a_plain_reader_of_a_local_folder_is_not_disturbed_by_what_a_killed_writer_left(tmp_path: Path) -> None:
    output = Output.open(str(tmp_path / "out"), CONFIG)
    for unit in plan(output, [document("a", 2)], unit_pages=3, run_id="r1"):
        commit_unit(output, unit, rows_of(unit), "r1")
    half = Path(output.unit_uri(unit.unit_id))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rtprune.store.local.os.replace", lambda aside, path: None)
        patch.setattr("rtprune.store.local.os.remove", lambda aside: None)  # a killed process does not get to this
        put(str(half.with_name("half.parquet")), b"PAR1")
    assert len(list(half.parent.iterdir())) == 2
    assert pads.dataset(str(tmp_path / "out" / "pages"), format="parquet").count_rows() == 2


def test_only_the_asked_columns_are_read(output: Output) -> None:
    (unit,) = plan(output, [document("a", 2)], unit_pages=3, run_id="r1")
    commit_unit(output, unit, rows_of(unit), "r1")
    assert read_pages(output, ["page", "text"]).sort_by("page").to_pylist() == [
        {"page": 1, "text": "text 1"},
        {"page": 2, "text": "text 2"},
    ]
    with pytest.raises(UsageError, match=r"no column 'txt'.*text"):
        read_pages(output, ["txt"])


def test_a_dataset_without_pages_is_an_empty_table_with_all_columns(output: Output) -> None:
    assert read_pages(output).schema.names == PAGES.names
    assert read_pages(output).num_rows == 0
    assert read_documents(output.uri).equals(DOCUMENTS.empty_table())
    empty = statistics(output.uri)
    assert (empty.page_count, empty.planned_pages, empty.saved_share) == (0, 0, None)


def test_a_flipped_bit_is_an_error_not_a_wrong_text(output: Output) -> None:
    (unit,) = plan(output, [document("a", 2)], unit_pages=3, run_id="r1")
    commit_unit(output, unit, rows_of(unit, say="unmistakable"), "r1")
    file = output.unit_uri(unit.unit_id)
    data = bytearray(get(file))
    data[data.index(b"unmistakable")] ^= 1
    put(file, bytes(data))
    with pytest.raises(RTPruneError, match="is damaged"):
        read_pages(output)


def test_a_file_that_is_cut_short_or_gone_is_named(output: Output) -> None:
    for unit in plan(output, [document("a", 2)], unit_pages=1, run_id="r1"):
        commit_unit(output, unit, rows_of(unit), "r1")
    compact_dataset(output)
    (file,) = find(join(output.uri, "pages"))
    put(file, get(file)[:-100])
    with pytest.raises(RTPruneError, match="is damaged"):
        statistics(output)
    delete(file)
    with pytest.raises(RTPruneError, match=r"is damaged.*000001-"):
        statistics(output)


def test_statistics_are_those_counted_by_hand(output: Output) -> None:
    locked = [DocumentRow(f"s3://in/{name}.pdf", "1", 3, "failed", reason="encrypted") for name in "xy"]
    strange = DocumentRow("s3://in/z.txt", "1", 3, "failed", reason="not-a-document")
    documents = [document("a", 3), document("b", 2), document("c", 3, content="a"), *locked, strange]
    first, second = plan(output, documents, unit_pages=3, run_id="r1")
    read, blank, torn = rows_of(first)
    rows = [
        replace(read, output_tokens=10, prompt_tokens=62, render_ms=1.0, encode_ms=2.0, prune_ms=0.5, decode_ms=8.0),
        replace(blank, status="empty", visual_tokens_after=13, output_tokens=1, prompt_tokens=15, render_ms=3.5),
        PageRow(torn.doc_id, torn.uri, torn.page, "failed", "mini", reason="damaged"),
    ]
    commit_unit(output, first, rows, "r1")
    counted = statistics(output)
    assert counted.pages == {"empty": 1, "failed": 1, "ok": 1}
    assert counted.page_count == 3
    assert counted.planned_pages == 5
    assert counted.documents == {"duplicate": 1, "failed": 3, "ok": 2}
    assert counted.page_failures == {"damaged": 1}
    assert counted.document_failures == {"encrypted": 2, "not-a-document": 1}
    assert counted.failure_count == 4
    assert [(row.uri, row.page, row.reason) for row in counted.failures] == [
        ("s3://in/x.pdf", None, "encrypted"),
        ("s3://in/y.pdf", None, "encrypted"),
        (torn.uri, torn.page, "damaged"),
        ("s3://in/z.txt", None, "not-a-document"),
    ]
    assert (counted.visual_tokens_before, counted.visual_tokens_after) == (146, 73)
    assert counted.saved_share == 0.5
    assert (counted.prompt_tokens, counted.output_tokens) == (77, 11)
    assert counted.stage_ms == {"render": 4.5, "encode": 2.0, "prune": 0.5, "prefill": 0.0, "decode": 8.0}

    commit_unit(output, second, rows_of(second, status="loop"), "r1")
    assert statistics(output).pages == {"empty": 1, "failed": 1, "loop": 2, "ok": 1}


def test_failures_are_documents_first_then_pages_each_with_its_reason(output: Output) -> None:
    away = DocumentRow("s3://in/away.pdf", "1", 10, "failed", reason=Reason.UNREACHABLE, message="no answer")
    odd = DocumentRow("s3://in/a-note.txt", "1", 10, "failed", reason=Reason.NOT_A_DOCUMENT, message="text")
    (unit,) = plan(output, [document("a", 3), away, odd], unit_pages=3, run_id="r1")
    first, second, third = rows_of(unit)
    slow = replace(second, status="failed", text=None, reason=Reason.TIMEOUT, message="too slow")
    torn = replace(third, status="failed", text=None, reason=Reason.DAMAGED, message="torn")
    commit_unit(output, unit, [first, slow, torn], "r1")
    assert read_failures(output.uri).to_pylist() == [
        {"uri": uri, "page": page, "reason": reason, "message": message, "passing": passing}
        for uri, page, reason, message, passing in (
            ("s3://in/a-note.txt", None, "not-a-document", "text", False),
            ("s3://in/away.pdf", None, "unreachable", "no answer", True),
            ("s3://in/a.pdf", 2, "timeout", "too slow", True),
            ("s3://in/a.pdf", 3, "damaged", "torn", False),
        )
    ]


def test_a_dataset_without_failures_has_none(output: Output) -> None:
    assert read_failures(output).num_rows == 0
    (unit,) = plan(output, [document("a", 1)], unit_pages=3, run_id="r1")
    commit_unit(output, unit, rows_of(unit), "r1")
    assert read_failures(output).num_rows == 0
