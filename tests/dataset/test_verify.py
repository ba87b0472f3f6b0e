"""A sound dataset is called sound at any time; each kind of damage is found and named."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from rtprune.dataset import (
    CommittedFile,
    CompactedFile,
    DocumentRow,
    Output,
    PlanLog,
    Verdict,
    commit_unit,
    committed_files,
    compact_dataset,
    publish,
    verify,
    verify_dataset,
)
from rtprune.dataset.files import file_set, found_files, manifest_uris
from rtprune.dataset.findings import KEPT
from rtprune.dataset.plan import PLAN
from rtprune.dataset.schema import PAGES, parquet_bytes
from rtprune.store import delete, find, get, join, put
from tests.dataset.samples import CONFIG, document, rows_of

CORPUS = [document("a", 5), document("b", 3), document("c", 9)]
LOST = DocumentRow("s3://in/lost.pdf", "1", 3, "failed", reason="unreachable")


@pytest.fixture
def filled(output: Output) -> Output:
    """Five units of two plans, four of them compacted into one file, the last read later."""
    log = PlanLog(output)
    for unit in log.append([*CORPUS, LOST], unit_pages=4, run_id="r1"):
        commit_unit(output, unit, rows_of(unit), "r1")
    publish(output, "r1")
    compact_dataset(output)
    for unit in log.append([document("d", 2)], unit_pages=4, run_id="r2"):
        commit_unit(output, unit, rows_of(unit), "r2")
    publish(output, "r2")
    return output


def kinds(verdict: Verdict) -> dict[str, int]:
    return dict(verdict.off.totals)


def file_named(output: Output, kind: type) -> Any:
    (file,) = {file for file in committed_files(output).values() if isinstance(file, kind)}
    return file


def rewrite(uri: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a control file."""
    content = json.loads(get(uri))
    change(content)
    put(uri, json.dumps(content).encode())


def resettle(output: Output, change: Callable[[pa.Table], pa.Table], *, honest: bool = True) -> str:
    """Change the rows of the compacted file; where ``honest``, its record is made to fit."""
    file = file_named(output, CompactedFile)
    uri = join(output.uri, file.file)
    table = change(pq.read_table(io.BytesIO(get(uri))))
    data = parquet_bytes(table)
    put(uri, data)
    if honest:
        sha256 = hashlib.sha256(data).hexdigest()
        facts = {"rows": len(table), "bytes": len(data), "sha256": sha256}
        renamed = uri.replace(file.sha256[:16], sha256[:16])
        delete(uri)
        put(renamed, data)
        facts["file"] = renamed.removeprefix(output.uri + "/")
        rewrite(output.compaction_uri(1), lambda content: content["file"].update(facts))
        return renamed
    return uri


@pytest.mark.parametrize("quick", [False, True])
def test_a_sound_dataset_is_called_sound_and_its_pages_counted(filled: Output, quick: bool) -> None:
    verdict = verify_dataset(filled, quick=quick)
    assert kinds(verdict) == {}
    assert not verdict.harmless
    assert verdict.sound
    assert (verdict.files, verdict.planned_units) == (2, len(PlanLog(filled).units))
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
    PlanLog(filled).append([document("e", 6)], unit_pages=4, run_id="r3")
    verdict = verify_dataset(filled)
    assert verdict.sound
    assert (verdict.planned_pages, verdict.pages, verdict.unread_pages, verdict.unread_units) == (25, 19, 6, 2)


def test_a_dataset_that_no_publish_has_seen_is_sound(output: Output) -> None:
    for unit in PlanLog(output).append(CORPUS, unit_pages=4, run_id="r1"):
        commit_unit(output, unit, rows_of(unit), "r1")
    assert verify_dataset(output).sound
    compact_dataset(output)
    verdict = verify_dataset(output)
    assert verdict.sound
    assert verdict.pages == 17


def test_what_killed_work_left_is_told_as_harmless(filled: Output) -> None:
    (unit,) = PlanLog(filled).append([document("e", 1)], unit_pages=4, run_id="r3")
    file = commit_unit(filled, unit, rows_of(unit), "r3")
    delete(filled.marker_uri(unit.unit_id))
    waiting = "pages/run=z1/c-000002-0123456789abcdef.parquet"
    ours = file_named(filled, CommittedFile)
    doubled = f"pages/run=r9/u-{ours.unit_id}-0123456789abcdef.parquet"
    foreign = "pages/mine.csv"
    for name in (waiting, doubled, foreign):
        put(join(filled.uri, name), b"x")
    lost = next(uri for uri in find(join(filled.uri, "documents")) if "r3" in uri)
    delete(lost)
    verdict = verify_dataset(filled)
    assert verdict.sound
    told = {finding.where.removeprefix(filled.uri + "/"): finding for finding in verdict.harmless.kept}
    assert told.keys() == {file.file, waiting, doubled, foreign, lost.removeprefix(filled.uri + "/")}
    assert "is taken up or deleted later" in told[file.file].what
    assert "is taken up or deleted later" in told[waiting].what
    assert "deletes it" in told[doubled].what
    assert "not written by rtprune" in told[foreign].what
    publish(filled, "r4")
    assert dict(verify_dataset(filled).harmless.totals) == {"leftover": 2}  # the unit's and the foreign one


def test_rows_of_documents_that_were_superseded_are_harmless_until_the_next_publish(filled: Output) -> None:
    opened = replace(document("lost", 1), uri=LOST.uri)
    PlanLog(filled).append([opened], unit_pages=4, run_id="r3")
    verdict = verify_dataset(filled)
    assert verdict.sound
    assert dict(verdict.harmless.totals) == {"unpublished": 1}
    publish(filled, "r3")
    assert not verify_dataset(filled).harmless


def break_file(output: Output, case: str) -> str:
    """Damage the compacted file; returns where it lies."""
    file = file_named(output, CompactedFile)
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
def test_a_file_that_is_not_as_it_was_committed_is_named(filled: Output, case: str) -> None:
    uri = break_file(filled, case)
    verdict = verify_dataset(filled)
    assert case in kinds(verdict)
    assert {finding.where for finding in verdict.off.kept} == {uri}


def test_quick_finds_by_size_and_reading_but_not_by_checksum(filled: Output) -> None:
    break_file(filled, "wrong-checksum")
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
    assert kinds(verdict) == {"wrong-record": 1, "missing-page": 1}
    assert verdict.pages == 18
    (finding,) = [each for each in verdict.off.kept if each.kind == "missing-page"]
    assert finding.where == uri
    assert "page " in finding.what


def test_a_page_that_is_in_its_file_twice_is_named(filled: Output) -> None:
    resettle(filled, lambda table: pa.concat_tables([table, table.slice(0, 1)]))
    verdict = verify_dataset(filled)
    assert kinds(verdict) == {"wrong-record": 1, "page-twice": 1}
    assert verdict.off.kept[1].what.endswith("has 2 rows")


def test_a_page_that_another_file_has_as_well_is_named(filled: Output) -> None:
    other = pq.read_table(io.BytesIO(get(join(filled.uri, file_named(filled, CommittedFile).file))))
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
    assert kinds(verdict) == {"wrong-record": 1, "unplanned-page": 1}
    assert f"page 77 of {document('d').doc_id}" in verdict.off.kept[1].what


def test_a_page_of_a_unit_that_is_not_committed_is_named(filled: Output) -> None:
    (unit,) = (unit for unit in PlanLog(filled).units if unit.slices[0].doc_id == document("d").doc_id)
    delete(filled.manifest_uri("r2"))
    delete(filled.marker_uri(unit.unit_id))
    resettle(filled, with_page(2))
    assert kinds(verify_dataset(filled)) == {"wrong-record": 1, "page-elsewhere": 1}


def test_many_findings_of_a_kind_are_counted_and_the_first_kept(filled: Output) -> None:
    resettle(filled, lambda table: pa.concat_tables([table] + [with_page(100 + n)(table).slice(17) for n in range(50)]))
    verdict = verify_dataset(filled)
    assert kinds(verdict)["unplanned-page"] == 50
    assert len([each for each in verdict.off.kept if each.kind == "unplanned-page"]) == KEPT


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
    assert said in verdict.off.kept[0].what


def test_rows_of_another_configuration_are_named(filled: Output) -> None:
    at = PAGES.get_field_index("config_hash")
    column = pa.array(["0123456789abcdef"] * 17)
    resettle(filled, lambda table: table.set_column(at, PAGES.field(at), column))
    verdict = verify_dataset(filled)
    assert kinds(verdict) == {"wrong-configuration": 1}
    assert "0123456789abcdef" in verdict.off.kept[0].what


def test_a_record_with_other_counts_than_its_file_is_named(filled: Output) -> None:
    rewrite(filled.compaction_uri(1), lambda content: content["file"].update(rows=18))
    assert kinds(verify_dataset(filled)) == {"wrong-record": 1, "wrong-row-count": 1}


def marker_of(output: Output) -> str:
    return output.marker_uri(file_named(output, CommittedFile).unit_id)


@pytest.mark.parametrize(
    ("which", "content", "kind"),
    [
        (marker_of, b"{", "damaged-marker"),
        (marker_of, b'{"file": "pages/../../x.parquet"}', "damaged-marker"),
        (lambda output: output.compaction_uri(1), b"[]", "damaged-record"),
        (lambda output: output.compaction_uri(1), b'{"file": {"file": "/etc/passwd"}}', "damaged-record"),
        (lambda output: output.manifest_uri("r1"), b"{}", "damaged-manifest"),
        (lambda output: output.manifest_uri("r1"), b'{"files": [7]}', "damaged-manifest"),
        (lambda output: output.plan_uri(1), b"PAR1", "damaged-plan"),
        (lambda output: output.documents_uri("r1", 1), b"PAR1", "damaged-documents"),
    ],
)
def test_a_control_file_that_cannot_be_parsed_is_named(
    filled: Output, which: Callable[[Output], str], content: bytes, kind: str
) -> None:
    uri = which(filled)
    put(uri, content)
    verdict = verify_dataset(filled)
    assert kind in kinds(verdict)
    assert uri in {finding.where for finding in verdict.off.kept}
    assert "unplanned-page" not in kinds(verdict)


def test_a_damaged_marker_does_not_make_its_pages_unread(filled: Output) -> None:
    uri = marker_of(filled)
    put(uri, b"{")
    for manifest in manifest_uris(filled):
        delete(manifest)
    verdict = verify_dataset(filled)
    assert kinds(verdict) == {"damaged-marker": 1}
    assert verdict.unread_pages == 0


def test_a_marker_under_another_units_name_is_named(filled: Output) -> None:
    put(filled.marker_uri("0" * 24), get(marker_of(filled)))
    verdict = verify_dataset(filled)
    assert kinds(verdict) == {"damaged-marker": 1}
    assert "0" * 24 in verdict.off.kept[0].where


def test_markers_and_manifests_that_disagree_are_named(filled: Output) -> None:
    rewrite(filled.manifest_uri("r2"), lambda content: content["files"][0].update(rows=3))
    assert kinds(verify_dataset(filled)) == {"wrong-manifest": 1}
    delete(marker_of(filled))
    assert "missing-marker" in kinds(verify_dataset(filled, quick=True))


def test_a_checksum_that_is_not_that_of_the_files_name_is_named(filled: Output) -> None:
    rewrite(filled.compaction_uri(1), lambda content: content["file"].update(sha256="0" * 64))
    assert kinds(verify_dataset(filled)) == {"damaged-record": 1, "wrong-checksum": 1}


def test_a_marker_of_a_unit_that_no_plan_has_is_named(filled: Output) -> None:
    other = replace(PlanLog(filled).units[0], unit_id="0" * 24)
    commit_unit(filled, other, rows_of(other), "r3")
    found = kinds(verify_dataset(filled))
    assert found.pop("unplanned-unit") == 1
    assert found == {"page-twice": other.page_count}


def test_records_that_are_missing_or_take_half_a_file_are_named(filled: Output) -> None:
    record = file_set(filled).records[0]
    assert record is not None
    half = replace(record, file=record.file.replace("c-000001", "c-000002"), units=record.units[:1])
    put(filled.compaction_uri(2), json.dumps({"schema_version": 1, "file": asdict(half)}).encode())
    verdict = verify_dataset(filled)
    assert kinds(verdict) == {"wrong-record": 1}
    assert verdict.off.kept[0].where == filled.compaction_uri(2)
    delete(filled.compaction_uri(1))
    verdict = verify_dataset(filled)
    assert kinds(verdict)["missing-record"] == 1
    assert verdict.off.kept[0].where == filled.compaction_uri(1)


def replan(output: Output, change: Callable[[list[dict[str, Any]]], object]) -> None:
    """Change the rows of the first plan."""
    uri = output.plan_uri(1)
    rows = pq.read_table(io.BytesIO(get(uri))).to_pylist()
    change(rows)
    put(uri, parquet_bytes(pa.Table.from_pylist(rows, schema=PLAN)))


def test_units_whose_ids_are_not_those_of_their_pages_are_named(filled: Output) -> None:
    replan(filled, lambda rows: rows[0]["slices"][1].update(last_page=6))
    found = kinds(verify_dataset(filled))
    assert found["wrong-unit-id"] == 1
    assert found["wrong-plan"] == 1
    assert found["missing-page"] == 1


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
    assert verdict.off.kept[0].where == filled.plan_uri(1)


def test_documents_that_are_not_the_plans_are_named(filled: Output) -> None:
    uri = filled.documents_uri("r1", 1)
    table = pq.read_table(io.BytesIO(get(uri)))
    at = table.schema.get_field_index("size")
    put(uri, parquet_bytes(table.set_column(at, table.schema.field(at), pc.add(table.column(at), 1))))
    verdict = verify_dataset(filled)
    assert kinds(verdict) == {"wrong-documents": 1}
    assert verdict.off.kept[0].where == uri
    put(filled.documents_uri("r9", 9), parquet_bytes(table))
    assert [each.where for each in verify_dataset(filled).harmless.kept] == [filled.documents_uri("r9", 9)]


def test_files_that_a_compaction_replaces_meanwhile_are_not_called_missing(
    output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    for unit in PlanLog(output).append(CORPUS, unit_pages=4, run_id="r1"):
        commit_unit(output, unit, rows_of(unit), "r1")
    publish(output, "r1")
    listing = verify._Verification._sizes
    late = [compact_dataset]

    def sizes(self: Any) -> dict[str, int]:
        if late:
            late.pop()(output)
        return listing(self)

    monkeypatch.setattr(verify._Verification, "_sizes", sizes)
    assert verify_dataset(output).sound
    assert not late
    assert len(found_files(output)) == 1


def test_another_configuration_is_told_for_all_that_was_read_with_the_first(filled: Output) -> None:
    other = Output(filled.uri, CONFIG | {"dpi": 72})
    assert {"wrong-configuration", "wrong-unit-id"} == kinds(verify_dataset(other)).keys()


def test_a_dataset_is_called_sound_while_runs_and_compactions_are_at_work(output: Output) -> None:
    log = PlanLog(output)

    def work() -> None:
        for turn in range(3):
            run_id = f"r{turn}"
            documents = [document(f"{turn}-{number}", 3) for number in range(5)]
            for unit in log.append(documents, unit_pages=3, run_id=run_id):
                commit_unit(output, unit, rows_of(unit), run_id)
            publish(output, run_id)
            compact_dataset(output)

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        while not working.done():
            assert kinds(verify_dataset(output)) == {}
        working.result()
    verdict = verify_dataset(output)
    assert verdict.sound
    assert (verdict.pages, verdict.files) == (45, 1)
