"""A sound dataset is called sound at any time; each kind of damage is found and named."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from rtprune.dataset import (
    CompactedFile,
    DocumentRow,
    Output,
    RunRow,
    UnitFile,
    Verdict,
    commit_unit,
    compact_dataset,
    current_files,
    record_run,
    sweep,
    verify,
    verify_dataset,
)
from rtprune.dataset.findings import KEPT
from rtprune.dataset.layout import compacted_file
from rtprune.dataset.parquet import parquet_bytes
from rtprune.dataset.plan import PLAN
from rtprune.dataset.schema import PAGES, SCHEMA_VERSION
from rtprune.store import delete, find, get, join, put
from tests.dataset.samples import (
    CONFIG,
    copied,
    document,
    objects_of,
    plan,
    planned_units,
    publish_documents,
    rows_of,
)

CORPUS = [document("a", 5), document("b", 3), document("c", 9)]
NOW = datetime(2026, 1, 2, tzinfo=UTC)
LOST = DocumentRow("s3://in/lost.pdf", "1", 3, "failed", reason="unreachable")


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Of `filled`, made once."""
    output = Output.open(str(tmp_path_factory.mktemp("filled") / "out"), CONFIG)
    for unit in plan(output, [*CORPUS, LOST], unit_pages=4, run_id="r1"):
        commit_unit(output, unit, rows_of(unit), "r1")
    compact_dataset(output)
    for unit in plan(output, [document("d", 2)], unit_pages=4, run_id="r2"):
        commit_unit(output, unit, rows_of(unit), "r2")
    record_run(output, RunRow("r2", NOW, NOW, NOW, "finished", "in", {}))
    return objects_of(output)


@pytest.fixture
def filled(objects: dict[str, bytes], output_uri: str) -> Output:
    """Five units of two plans, four of them compacted into one file, the last read later."""
    return copied(objects, output_uri)


def kinds(verdict: Verdict) -> dict[str, int]:
    return dict(verdict.errors.totals)


def file_named(output: Output, kind: type) -> Any:
    (file,) = {file for file in current_files(output).files if isinstance(file, kind)}
    return file


def rewrite(uri: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a record."""
    content = json.loads(get(uri))
    change(content)
    put(uri, json.dumps(content).encode())


def resettle(output: Output, change: Callable[[pa.Table], pa.Table], units: Sequence[str] | None = None) -> str:
    """Change the rows of the compacted file, and its record so that it fits; returns where the file then lies."""
    file = file_named(output, CompactedFile)
    uri = join(output.uri, file.file)
    table = change(pq.read_table(io.BytesIO(get(uri))).cast(PAGES))
    data = parquet_bytes(table, units=file.units if units is None else units)
    sha256 = hashlib.sha256(data).hexdigest()
    renamed = compacted_file(1, sha256)
    delete(uri)
    put(join(output.uri, renamed), data)
    facts = {"file": renamed, "rows": len(table), "bytes": len(data), "sha256": sha256}
    rewrite(output.compaction_uri(1), lambda content: content["file"].update(facts))
    return join(output.uri, renamed)


@pytest.mark.parametrize("quick", [False, True])
def test_a_sound_dataset_is_called_sound_and_its_pages_counted(filled: Output, quick: bool) -> None:
    verdict = verify_dataset(filled, quick=quick)
    assert kinds(verdict) == {}
    assert not verdict.harmless
    assert verdict.sound
    assert (verdict.files, verdict.planned_units) == (2, len(planned_units(filled)))
    assert (verdict.planned_pages, verdict.pages, verdict.unread_pages, verdict.unread_units) == (19, 19, 0, 0)


def test_an_empty_dataset_is_sound(output: Output) -> None:
    verdict = verify_dataset(output)
    assert verdict.sound
    assert (verdict.files, verdict.planned_pages) == (0, 0)


def test_verifying_writes_nothing(filled: Output) -> None:
    before = {uri: get(uri) for uri in find(filled.uri)}
    verify_dataset(filled)
    assert {uri: get(uri) for uri in find(filled.uri)} == before


def test_pages_of_units_not_committed_yet_are_unread_not_missing(filled: Output) -> None:
    plan(filled, [document("e", 6)], unit_pages=4, run_id="r3")
    verdict = verify_dataset(filled)
    assert verdict.sound
    assert (verdict.planned_pages, verdict.pages, verdict.unread_pages, verdict.unread_units) == (25, 19, 6, 2)


def test_a_dataset_whose_run_was_killed_is_sound(output: Output) -> None:
    for unit in plan(output, CORPUS, unit_pages=4, run_id="r1"):
        commit_unit(output, unit, rows_of(unit), "r1")
    assert verify_dataset(output).sound
    compact_dataset(output)
    verdict = verify_dataset(output)
    assert verdict.sound
    assert verdict.pages == 17


def test_what_killed_work_left_is_harmless(filled: Output) -> None:
    compacted, ours = file_named(filled, CompactedFile), file_named(filled, UnitFile)
    waiting = compacted_file(2, "0" * 64)  # a compaction of the last unit, killed before its record
    put(join(filled.uri, waiting), get(join(filled.uri, ours.file)))
    (late,) = (unit for unit in planned_units(filled) if unit.unit_id == compacted.units[0])
    commit_unit(filled, late, rows_of(late, say="late"), "r9")
    foreign = "pages/mine.csv"
    put(join(filled.uri, foreign), b"x")
    lost = filled.documents_uri(2)
    delete(lost)
    verdict = verify_dataset(filled)
    assert kinds(verdict) == {}
    assert verdict.pages == 19
    said = {finding.where.removeprefix(filled.uri + "/"): finding.what for finding in verdict.harmless.kept}
    late_file = filled.unit_uri(late.unit_id).removeprefix(filled.uri + "/")
    assert said.keys() == {waiting, late_file, foreign, lost.removeprefix(filled.uri + "/")}
    assert "was killed: the next run or compaction deletes it" in said[waiting]
    assert "no part of the dataset any more" in said[late_file]
    assert "not written by rtprune" in said[foreign]
    assert (sweep(filled), publish_documents(filled)) == (2, 1)
    assert dict(verify_dataset(filled).harmless.totals) == {"leftover": 1}


def test_rows_of_documents_that_were_superseded_are_harmless_until_they_are_published_again(filled: Output) -> None:
    opened = replace(document("lost", 1), uri=LOST.uri)
    plan(filled, [opened], unit_pages=4, run_id="r3")
    verdict = verify_dataset(filled)
    assert verdict.sound
    assert dict(verdict.harmless.totals) == {"unpublished": 1}
    assert publish_documents(filled) == 1
    assert not verify_dataset(filled).harmless


def break_file(output: Output, case: str, kind: type = CompactedFile) -> str:
    """Damage a file of pages; returns where it lies."""
    file = file_named(output, kind)
    uri = join(output.uri, file.file)
    data = get(uri)
    match case:
        case "missing-file":
            delete(uri)
        case "wrong-size":
            put(uri, data + b"PAR1")
        case "unreadable-file":
            put(uri, b"x" * len(data))
        case "wrong-checksum":
            group = pq.read_metadata(io.BytesIO(data)).row_group(0)
            text = group.column(PAGES.get_field_index("text"))
            at = text.data_page_offset + text.total_compressed_size - 1
            put(uri, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    return uri


@pytest.mark.parametrize("case", ["missing-file", "wrong-size", "unreadable-file", "wrong-checksum"])
def test_a_compacted_file_that_is_not_as_it_was_written_is_named(filled: Output, case: str) -> None:
    uri = break_file(filled, case)
    verdict = verify_dataset(filled)
    assert case in kinds(verdict)
    assert {finding.where for finding in verdict.errors.kept} == {uri}


@pytest.mark.parametrize("case", ["unreadable-file", "wrong-checksum"])
def test_a_units_file_that_is_not_as_it_was_written_is_named(filled: Output, case: str) -> None:
    uri = break_file(filled, case, UnitFile)
    verdict = verify_dataset(filled)
    assert case in kinds(verdict)
    assert {finding.where for finding in verdict.errors.kept} == {uri}


def test_any_flipped_bit_of_a_units_file_is_found(filled: Output) -> None:
    uri = join(filled.uri, file_named(filled, UnitFile).file)
    data = get(uri)
    for at in (0, 4, len(data) // 2, len(data) - 9, len(data) - 1):
        put(uri, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert "wrong-checksum" in kinds(verify_dataset(filled)), at


def test_a_unit_whose_file_is_gone_is_read_again(filled: Output) -> None:
    delete(join(filled.uri, file_named(filled, UnitFile).file))
    verdict = verify_dataset(filled)
    assert verdict.sound
    assert (verdict.pages, verdict.unread_pages) == (17, 2)


def test_quick_reads_of_large_files_only_which_pages_they_hold(filled: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    break_file(filled, "wrong-checksum")
    assert kinds(verify_dataset(filled, quick=True)) == {"wrong-checksum": 1}
    monkeypatch.setattr(verify, "WHOLE_BYTES", 0)
    assert verify_dataset(filled, quick=True).sound
    break_file(filled, "wrong-size")
    assert "wrong-size" in kinds(verify_dataset(filled, quick=True))
    break_file(filled, "unreadable-file")
    assert "unreadable-file" in kinds(verify_dataset(filled, quick=True))
    break_file(filled, "missing-file")
    assert kinds(verify_dataset(filled, quick=True)) == {"missing-file": 1}


@pytest.mark.parametrize("quick", [False, True])
def test_a_page_that_is_missing_from_its_file_is_named(filled: Output, quick: bool) -> None:
    uri = resettle(filled, lambda table: table.slice(1))
    verdict = verify_dataset(filled, quick=quick)
    assert kinds(verdict) == {"missing-page": 1}
    assert verdict.pages == 18
    (finding,) = [each for each in verdict.errors.kept if each.kind == "missing-page"]
    assert finding.where == uri
    assert "page " in finding.what


def test_a_page_that_is_in_its_file_twice_is_named(filled: Output) -> None:
    resettle(filled, lambda table: pa.concat_tables([table, table.slice(0, 1)]))
    verdict = verify_dataset(filled)
    assert kinds(verdict) == {"page-twice": 1}
    assert verdict.errors.kept[0].what.endswith("has 2 rows")


def test_a_page_that_another_file_has_as_well_is_named(filled: Output) -> None:
    other = pq.read_table(io.BytesIO(get(join(filled.uri, file_named(filled, UnitFile).file)))).cast(PAGES)
    resettle(filled, lambda table: pa.concat_tables([table.slice(1), other.slice(0, 1)]))
    assert kinds(verify_dataset(filled)) == {"missing-page": 1, "page-twice": 1}


def with_page(page: int) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        row = {**table.slice(0, 1).to_pylist()[0], "doc_id": document("d").doc_id, "page": page}
        return pa.concat_tables([table, pa.Table.from_pylist([row], schema=PAGES)])

    return change


def test_a_page_that_no_plan_has_is_named(filled: Output) -> None:
    resettle(filled, with_page(77))
    verdict = verify_dataset(filled)
    assert kinds(verdict) == {"unplanned-page": 1}
    assert f"page 77 of {document('d').doc_id}" in verdict.errors.kept[0].what


def test_a_page_of_a_unit_that_is_not_done_is_named(filled: Output) -> None:
    delete(join(filled.uri, file_named(filled, UnitFile).file))
    resettle(filled, with_page(2))
    assert kinds(verify_dataset(filled)) == {"page-elsewhere": 1}


def test_a_file_under_another_units_name_is_named(filled: Output) -> None:
    (unit,) = plan(filled, [document("e", 2)], unit_pages=4, run_id="r3")
    put(filled.unit_uri(unit.unit_id), get(join(filled.uri, file_named(filled, UnitFile).file)))
    verdict = verify_dataset(filled)
    assert kinds(verdict) == {"wrong-units": 1, "missing-page": 2, "page-twice": 2}
    assert {finding.where for finding in verdict.errors.kept} == {filled.unit_uri(unit.unit_id)}


@pytest.mark.parametrize("units", [(), ("0" * 24,)])
def test_a_file_that_says_that_it_holds_other_units_is_named(filled: Output, units: Sequence[str]) -> None:
    uri = resettle(filled, lambda table: table, units)
    verdict = verify_dataset(filled, quick=True)
    assert kinds(verdict) == {"wrong-units": 1}
    assert verdict.errors.kept[0].where == uri


def test_many_findings_of_a_kind_are_counted_and_the_first_kept(filled: Output) -> None:
    resettle(filled, lambda table: pa.concat_tables([table] + [with_page(100 + n)(table).slice(17) for n in range(50)]))
    verdict = verify_dataset(filled)
    assert kinds(verdict)["unplanned-page"] == 50
    assert len([each for each in verdict.errors.kept if each.kind == "unplanned-page"]) == KEPT


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda table: table.drop_columns("text"), "column text is missing"),
        (lambda table: table.append_column("more", pa.nulls(len(table))), "no column more"),
        (lambda table: table.set_column(2, "page", table["page"].cast(pa.int64())), "column page is int64"),
        (lambda table: table.replace_schema_metadata({"rtprune.schema_version": "0"}), "metadata"),
        (lambda table: table.select(["page", *(name for name in PAGES.names if name != "page")]), "another order"),
        (lambda table: table.drop_columns("doc_id"), "column doc_id is missing"),
    ],
)
def test_columns_that_are_not_those_of_pages_are_named(
    filled: Output, change: Callable[[pa.Table], pa.Table], said: str
) -> None:
    resettle(filled, change)
    verdict = verify_dataset(filled)
    assert "wrong-columns" in kinds(verdict)
    assert said in verdict.errors.kept[0].what


def test_rows_of_another_configuration_are_named(filled: Output) -> None:
    at = PAGES.get_field_index("config_hash")
    column = pa.array(["0123456789abcdef"] * 17)
    resettle(filled, lambda table: table.set_column(at, PAGES.field(at), column))
    verdict = verify_dataset(filled)
    assert kinds(verdict) == {"wrong-configuration": 1}
    assert "0123456789abcdef" in verdict.errors.kept[0].what


def test_a_record_with_other_counts_than_its_file_is_named(filled: Output) -> None:
    rewrite(filled.compaction_uri(1), lambda content: content["file"].update(rows=18))
    assert kinds(verify_dataset(filled)) == {"wrong-row-count": 1}


@pytest.mark.parametrize(
    ("which", "content", "kind"),
    [
        (lambda output: output.compaction_uri(1), b"[]", "damaged-record"),
        (lambda output: output.compaction_uri(1), b'{"file": {"file": "/etc/passwd"}}', "damaged-record"),
        (lambda output: output.plan_uri(1), b"PAR1", "damaged-plan"),
        (lambda output: output.documents_uri(1), b"PAR1", "damaged-documents"),
        (lambda output: output.run_uri("r2"), b"PAR1", "damaged-run"),
    ],
)
def test_a_control_file_that_cannot_be_parsed_is_named(
    filled: Output, which: Callable[[Output], str], content: bytes, kind: str
) -> None:
    uri = which(filled)
    put(uri, content)
    verdict = verify_dataset(filled)
    assert kind in kinds(verdict)
    assert uri in {finding.where for finding in verdict.errors.kept}
    assert len(kinds(verdict)) == 1


@pytest.mark.parametrize(
    ("which", "kind"),
    [
        (lambda output: output.plan_uri(1), "damaged-plan"),
        (lambda output: output.documents_uri(1), "damaged-documents"),
        (lambda output: output.run_uri("r2"), "damaged-run"),
    ],
)
def test_a_flipped_bit_in_what_is_no_page_is_found(filled: Output, which: Callable[[Output], str], kind: str) -> None:
    uri = which(filled)
    data = get(uri)
    at = data.index(b"rtprune.columns") + 20  # in the words of the footer, which no reader looks at
    put(uri, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    verdict = verify_dataset(filled)
    assert kinds(verdict) == {kind: 1}
    assert verdict.errors.kept[0].where == uri


def test_a_checksum_that_is_not_that_of_the_files_name_is_named(filled: Output) -> None:
    rewrite(filled.compaction_uri(1), lambda content: content["file"].update(sha256="0" * 64))
    assert kinds(verify_dataset(filled)) == {"damaged-record": 1, "wrong-checksum": 1}


def test_a_file_of_a_unit_that_no_plan_has_is_named(filled: Output) -> None:
    other = replace(planned_units(filled)[0], unit_id="0" * 24)
    commit_unit(filled, other, rows_of(other), "r3")
    named = kinds(verify_dataset(filled))
    assert named.pop("unplanned-unit") == 1
    assert named == {"page-twice": other.page_count}


def test_a_record_that_takes_half_a_file_is_named(filled: Output) -> None:
    record = current_files(filled).records[0]
    assert record is not None
    half = replace(record, file=record.file.replace("000001-", "000002-"), units=record.units[:1])
    put(filled.compaction_uri(2), json.dumps({"schema_version": SCHEMA_VERSION, "file": asdict(half)}).encode())
    verdict = verify_dataset(filled)
    assert kinds(verdict) == {"wrong-record": 1}
    assert verdict.errors.kept[0].where == filled.compaction_uri(2)


def test_a_record_that_is_missing_is_named(filled: Output) -> None:
    put(filled.compaction_uri(2), json.dumps({"schema_version": SCHEMA_VERSION, "file": None}).encode())
    uri = join(filled.uri, file_named(filled, CompactedFile).file)
    delete(filled.compaction_uri(1))
    verdict = verify_dataset(filled)
    assert kinds(verdict) == {"missing-record": 1, "unrecorded-file": 1}
    assert [finding.where for finding in verdict.errors.kept] == [filled.compaction_uri(1), uri]


def test_a_file_whose_record_is_lost_without_a_trace_is_named(filled: Output) -> None:
    uri = join(filled.uri, file_named(filled, CompactedFile).file)
    delete(filled.compaction_uri(1))
    verdict = verify_dataset(filled)
    assert kinds(verdict) == {"unrecorded-file": 1}
    assert verdict.errors.kept[0].where == uri


def replan(output: Output, change: Callable[[list[dict[str, Any]]], object]) -> None:
    """Change the rows of the first plan."""
    uri = output.plan_uri(1)
    rows = pq.read_table(io.BytesIO(get(uri))).to_pylist()
    change(rows)
    put(uri, parquet_bytes(pa.Table.from_pylist(rows, schema=PLAN)))


def test_units_whose_ids_are_not_those_of_their_pages_are_named(filled: Output) -> None:
    replan(filled, lambda rows: rows[0]["slices"][1].update(last_page=6))
    named = kinds(verify_dataset(filled))
    assert named["wrong-unit-id"] == 1
    assert named["wrong-plan"] == 1
    assert named["missing-page"] == 1


def test_a_plan_that_plans_a_document_again_is_named(filled: Output) -> None:
    replan(filled, lambda rows: rows.append(rows[0] | {"version": "2"}))
    assert "wrong-plan" in kinds(verify_dataset(filled))


def test_a_plan_of_another_configuration_is_named(filled: Output) -> None:
    replan(filled, lambda rows: [row.update(config_hash="0123456789abcdef") for row in rows])
    assert "wrong-configuration" in kinds(verify_dataset(filled))


def test_a_plan_that_is_missing_is_named(filled: Output) -> None:
    delete(filled.plan_uri(1))
    verdict = verify_dataset(filled)
    assert kinds(verdict) == {"missing-plan": 1}
    assert verdict.errors.kept[0].where == filled.plan_uri(1)


def test_documents_that_are_not_the_plans_are_named(filled: Output) -> None:
    uri = filled.documents_uri(1)
    table = pq.read_table(io.BytesIO(get(uri)))
    at = table.schema.get_field_index("size")
    put(uri, parquet_bytes(table.set_column(at, table.schema.field(at), pc.add(table.column(at), 1))))
    verdict = verify_dataset(filled)
    assert kinds(verdict) == {"wrong-documents": 1}
    assert verdict.errors.kept[0].where == uri
    put(filled.documents_uri(9), parquet_bytes(table))
    assert [each.where for each in verify_dataset(filled).harmless.kept] == [filled.documents_uri(9)]


def test_files_that_a_compaction_replaces_meanwhile_are_not_called_missing(
    output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    for unit in plan(output, CORPUS, unit_pages=4, run_id="r1"):
        commit_unit(output, unit, rows_of(unit), "r1")
    late = [compact_dataset]

    def examine(*given: Any) -> Any:
        if late:
            late.pop()(output)
        return examined(*given)

    examined = verify._examine
    monkeypatch.setattr(verify, "_examine", examine)
    verdict = verify_dataset(output)
    assert kinds(verdict) == {}
    assert not late
    assert (verdict.files, verdict.pages) == (1, 17)


def test_another_configuration_is_named_for_all_that_was_read_with_the_first(filled: Output) -> None:
    other = Output(filled.uri, CONFIG | {"dpi": 72})
    assert {"wrong-configuration", "wrong-unit-id"} == kinds(verify_dataset(other)).keys()


def test_a_dataset_is_called_sound_while_runs_and_compactions_are_at_work(output: Output) -> None:

    def work() -> None:
        for turn in range(3):
            run_id = f"r{turn}"
            documents = [document(f"{turn}-{number}", 3) for number in range(5)]
            for unit in plan(output, documents, unit_pages=3, run_id=run_id):
                commit_unit(output, unit, rows_of(unit), run_id)
            compact_dataset(output)

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        while not working.done():
            assert kinds(verify_dataset(output)) == {}
        working.result()
    verdict = verify_dataset(output)
    assert verdict.sound
    assert (verdict.pages, verdict.files) == (45, 1)
