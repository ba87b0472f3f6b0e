"""Units have the same ids everywhere; the plan log covers every object once, whoever plans."""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtprune.dataset import DocumentRow, Output, PlanLog, plan_units, publish, read_documents
from rtprune.errors import RTPruneError, UsageError
from rtprune.store import delete, find, get, join, put
from tests.dataset.samples import document

FAILED = DocumentRow("s3://in/broken.pdf", "1", 3, "failed", reason="not-a-document", message="no PDF")

page_counts = st.lists(st.integers(1, 40), max_size=12)


def test_unit_ids_are_those_that_any_other_machine_computes() -> None:
    units = plan_units([document("a", 3), document("b", 70), document("c", 1)], "0123456789abcdef", 32)
    assert [unit.page_count for unit in units] == [3, 32, 32, 7]
    assert [unit.unit_id for unit in units] == [
        "c76903136ce6e35436eeab8e",
        "ee93c1acaad22fe96b3fe070",
        "6419ec7a629bdfd3d9e0d4c7",
        "fe6e2593d8112c9bafc36894",
    ]


@settings(max_examples=60, deadline=None)
@given(page_counts, st.integers(1, 16), st.randoms(use_true_random=False))
def test_units_do_not_depend_on_the_order_of_documents(
    counts: list[int], unit_pages: int, shuffler: random.Random
) -> None:
    documents = [document(f"{number:02d}", count) for number, count in enumerate(counts)]
    shuffled = documents.copy()
    shuffler.shuffle(shuffled)
    assert plan_units(shuffled, "c", unit_pages) == plan_units(documents, "c", unit_pages)


@settings(max_examples=60, deadline=None)
@given(page_counts, st.integers(1, 16))
def test_units_hold_every_page_once_and_never_too_many(counts: list[int], unit_pages: int) -> None:
    documents = [document(f"{number:02d}", count) for number, count in enumerate(counts)]
    units = plan_units(documents, "c", unit_pages)
    assert Counter(page for unit in units for page in unit.pages()) == Counter(
        (row.doc_id, page) for row in documents for page in range(1, (row.pages or 0) + 1)
    )
    assert all(1 <= unit.page_count <= unit_pages for unit in units)
    assert len({unit.unit_id for unit in units}) == len(units)


def test_a_document_that_fits_into_a_unit_is_not_divided() -> None:
    units = plan_units([document("a", 5), document("b", 6), document("c", 2)], "c", 8)
    assert [[piece.uri for piece in unit.slices] for unit in units] == [
        ["s3://in/a.pdf"],
        ["s3://in/b.pdf", "s3://in/c.pdf"],
    ]


def test_another_configuration_means_other_unit_ids() -> None:
    one, other = (plan_units([document("a")], config_hash, 8) for config_hash in ("c", "d"))
    assert one[0].slices == other[0].slices
    assert one[0].unit_id != other[0].unit_id


def test_unit_ids_follow_the_bytes_not_the_place() -> None:
    here = document("a", 2)
    there = replace(here, uri="/mnt/copy/a.pdf")
    assert plan_units([here], "c", 8)[0].unit_id == plan_units([there], "c", 8)[0].unit_id


def test_the_same_bytes_are_planned_once_under_the_first_uri() -> None:
    units = plan_units([document("z", 2, content="same"), document("a", 2, content="same")], "c", 8)
    assert [piece.uri for unit in units for piece in unit.slices] == ["s3://in/a.pdf"]


@pytest.mark.parametrize("bad", [replace(document("a"), pages=0), replace(document("a"), doc_id=None)])
def test_a_good_document_without_pages_or_identity_is_refused(bad: DocumentRow) -> None:
    with pytest.raises(ValueError, match=r"a\.pdf"):
        plan_units([bad], "c", 8)


def test_units_must_hold_at_least_one_page() -> None:
    with pytest.raises(ValueError, match="unit_pages"):
        plan_units([], "c", 0)


def test_both_documents_of_the_same_bytes_have_their_row(output: Output) -> None:
    twins = [document("a", 2, content="same"), document("b", 2, content="same")]
    units = PlanLog(output).append([*twins, FAILED], unit_pages=8, run_id="r1")
    assert [unit.page_count for unit in units] == [2]
    rows = {row["uri"]: row for row in read_documents(output).to_pylist()}
    assert {uri: row["status"] for uri, row in rows.items()} == {
        "s3://in/a.pdf": "ok",
        "s3://in/b.pdf": "duplicate",
        "s3://in/broken.pdf": "failed",
    }
    assert rows["s3://in/a.pdf"]["doc_id"] == rows["s3://in/b.pdf"]["doc_id"]
    assert rows["s3://in/broken.pdf"]["doc_id"] is None
    assert rows["s3://in/broken.pdf"]["reason"] == "not-a-document"


def test_objects_met_later_become_a_new_plan_and_old_units_stay(output: Output) -> None:
    first = PlanLog(output).append([document("b", 3)], unit_pages=8, run_id="r1")
    log = PlanLog(output)
    assert log.covers("s3://in/b.pdf", "1")
    assert not log.covers("s3://in/b.pdf", "2")
    second = log.append([document("a", 4), document("b", 3)], unit_pages=8, run_id="r2")
    assert [piece.uri for unit in second for piece in unit.slices] == ["s3://in/a.pdf"]
    assert PlanLog(output).units == (*first, *second)
    assert PlanLog(output).count == 2


def test_planning_what_is_planned_writes_nothing(output: Output) -> None:
    PlanLog(output).append([document("a"), FAILED], unit_pages=8, run_id="r1")
    before = find(output.uri)
    assert PlanLog(output).append([document("a"), FAILED], unit_pages=8, run_id="r2") == ()
    assert find(output.uri) == before


def test_a_new_version_of_an_object_is_read_unless_its_bytes_are_known(output: Output) -> None:
    PlanLog(output).append([document("a", 2)], unit_pages=8, run_id="r1")
    touched = document("a", 2, version="2")
    changed = document("a", 2, version="3", content="other")
    units = PlanLog(output).append([touched, changed], unit_pages=8, run_id="r2")
    assert [piece.doc_id for unit in units for piece in unit.slices] == [changed.doc_id]
    assert read_documents(output).column("status").to_pylist() == ["ok", "duplicate", "ok"]


def test_bytes_that_could_not_be_opened_once_are_read_when_they_can_be(output: Output) -> None:
    locked = replace(document("a", 2), status="failed", pages=None, reason="encrypted")
    assert PlanLog(output).append([locked], unit_pages=8, run_id="r1") == ()
    (unit,) = PlanLog(output).append([document("a", 2, version="2")], unit_pages=8, run_id="r2")
    assert unit.page_count == 2
    assert read_documents(output).column("status").to_pylist() == ["failed", "ok"]


def test_a_document_that_opens_at_the_second_try_supersedes_its_failed_row(output: Output) -> None:
    opened = document("a", 2)
    locked = replace(opened, status="failed", pages=None, reason="encrypted")
    PlanLog(output).append([document("b"), FAILED, locked], unit_pages=8, run_id="r1")
    log = PlanLog(output)
    assert log.failure(locked.uri, locked.version) == "encrypted"
    assert log.append([FAILED, locked], unit_pages=8, run_id="r2") == ()  # still in vain: nothing to write
    assert log.count == 1
    (unit,) = log.append([FAILED, opened], unit_pages=8, run_id="r3")
    assert [piece.doc_id for piece in unit.slices] == [opened.doc_id]
    assert log.failure(opened.uri, opened.version) is None
    expected = {"s3://in/a.pdf": "ok", "s3://in/b.pdf": "ok", "s3://in/broken.pdf": "failed"}
    table = read_documents(output)
    assert dict(zip(table["uri"].to_pylist(), table["status"].to_pylist(), strict=True)) == expected
    assert publish(output, "r3").documents == 1
    files = find(join(output.uri, "documents"), ".parquet")
    rows = pa.concat_tables([pq.read_table(pa.BufferReader(get(uri))) for uri in files])
    assert dict(zip(rows["uri"].to_pylist(), rows["status"].to_pylist(), strict=True)) == expected
    assert len(rows) == 3
    assert not publish(output, "r4").changed


def test_a_truer_reason_supersedes_the_one_before(output: Output) -> None:
    away = replace(FAILED, reason="unreachable")
    PlanLog(output).append([away], unit_pages=8, run_id="r1")
    PlanLog(output).append([FAILED], unit_pages=8, run_id="r2")
    assert PlanLog(output).failure(FAILED.uri, FAILED.version) == "not-a-document"
    assert read_documents(output).column("reason").to_pylist() == ["not-a-document"]


def test_a_file_name_that_is_not_utf8_is_planned_once(output: Output) -> None:
    row = replace(document("a"), uri=b"/in/caf\xe9.pdf".decode("utf-8", "surrogateescape"))
    (unit,) = PlanLog(output).append([row], unit_pages=8, run_id="r1")
    assert unit.slices[0].uri == "/in/caf\\udce9.pdf"
    log = PlanLog(output)
    assert log.covers(row.uri, row.version)
    assert log.append([row], unit_pages=8, run_id="r2") == ()


def test_two_outputs_of_the_same_input_have_the_same_units(output_uri: str) -> None:
    documents = [document(f"{number}", number + 1) for number in range(6)]
    units = []
    for name, order in (("one", documents), ("other", documents[::-1])):
        log = PlanLog(Output.open(join(output_uri, name), {"mode": "tiny"}))
        log.append(order, unit_pages=4, run_id=name)
        units.append(log.units)
    assert units[0] == units[1]


def test_racing_planners_agree_and_cover_every_object_once(output: Output) -> None:
    documents = [document(f"{number:02d}", number % 5 + 1) for number in range(30)]
    racers = 6
    start = Barrier(racers)

    def plan(racer: int) -> PlanLog:
        mine = documents[racer * 3 : racer * 3 + 15]  # neighbours overlap
        log = PlanLog(output)
        start.wait()
        log.append(mine, unit_pages=4, run_id=f"r{racer}")
        return log

    with ThreadPoolExecutor(racers) as pool:
        logs = list(pool.map(plan, range(racers)))
    final = PlanLog(output)
    for log in logs:
        log.reload()
        assert log.units == final.units
    assert Counter(page for unit in final.units for page in unit.pages()) == Counter(
        (row.doc_id, page) for row in documents for page in range(1, (row.pages or 0) + 1)
    )
    assert sorted(read_documents(output).column("uri").to_pylist()) == [row.uri for row in documents]
    assert len(find(join(output.uri, "documents"), ".parquet")) == final.count


def test_documents_rows_lost_to_a_kill_after_planning_come_back_at_publish(output: Output) -> None:
    PlanLog(output).append([document("a")], unit_pages=8, run_id="r1")
    PlanLog(output).append([document("b")], unit_pages=8, run_id="r2")
    lost = output.documents_uri("r1", 1)
    delete(lost)
    assert publish(output, "r3").documents == 1
    assert find(join(output.uri, "documents"), ".parquet") == [lost, output.documents_uri("r2", 2)]


def test_a_plan_that_is_none_is_named(output: Output) -> None:
    put(output.plan_uri(1), b"PAR1 no")
    with pytest.raises(RTPruneError, match=r"000001\.parquet"):
        PlanLog(output)


@pytest.mark.parametrize("run_id", ["", "../x", "007", "r/1", "r" * 64])
def test_a_run_id_that_could_leave_its_folder_or_pass_for_a_number_is_refused(output: Output, run_id: str) -> None:
    with pytest.raises(UsageError, match="run id"):
        PlanLog(output).append([document("a")], unit_pages=8, run_id=run_id)
