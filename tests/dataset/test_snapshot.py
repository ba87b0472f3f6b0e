"""The plan covers every object once, whoever plans; what is new and what is left to read are found in it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rtprune.dataset import DocumentRow, Output, Snapshot, Unit, read_documents
from rtprune.dataset import snapshot as module
from rtprune.errors import Reason, RTPruneError, UsageError
from rtprune.store import delete, find, get, join, put
from tests.dataset.samples import document

FAILED = DocumentRow("s3://in/broken.pdf", "1", 3, "failed", reason=Reason.NOT_A_DOCUMENT, message="no PDF")


def append(output: Output, documents: Iterable[DocumentRow], unit_pages: int = 8, run_id: str = "r1") -> list[Unit]:
    """Plan; the units that were not planned before."""
    with Snapshot(output) as snapshot:
        before = len(snapshot.pending(()).units)
        snapshot.append(documents, unit_pages=unit_pages, run_id=run_id)
        return snapshot.units(snapshot.pending(()).units[before:].tolist())


def units(output: Output) -> list[Unit]:
    with Snapshot(output) as snapshot:
        return snapshot.units(snapshot.pending(()).units.tolist())


def plans(output: Output) -> int:
    return len(find(join(output.uri, "_rtprune", "plans"), ".parquet"))


def publish(output: Output) -> int:
    with Snapshot(output) as snapshot:
        return snapshot.publish_documents()


def new(output: Output, *objects: tuple[str, str], again: Iterable[Reason] = ()) -> list[tuple[str, str]]:
    """Those of ``objects`` (URI, version) that a run would look into."""
    with Snapshot(output) as snapshot:
        assert snapshot.list_source(((uri, 1, version) for uri, version in objects), list(again)) == len(objects)
        return [(uri, version) for some in snapshot.new_objects() for uri, _, version in some]


def test_both_documents_of_the_same_bytes_have_their_row(output: Output) -> None:
    twins = [document("a", 2, content="same"), document("b", 2, content="same")]
    units = append(output, [*twins, FAILED])
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
    first = append(output, [document("b", 3)])
    assert new(output, ("s3://in/b.pdf", "1"), ("s3://in/b.pdf", "2")) == [("s3://in/b.pdf", "2")]
    second = append(output, [document("a", 4), document("b", 3)], run_id="r2")
    assert [piece.uri for unit in second for piece in unit.slices] == ["s3://in/a.pdf"]
    assert units(output) == [*first, *second]
    assert plans(output) == 2


def test_planning_what_is_planned_writes_nothing(output: Output) -> None:
    append(output, [document("a"), FAILED])
    before = find(output.uri)
    assert append(output, [document("a"), FAILED], run_id="r2") == []
    assert find(output.uri) == before


def test_a_new_version_of_an_object_is_read_unless_its_bytes_are_known(output: Output) -> None:
    append(output, [document("a", 2)])
    touched = document("a", 2, version="2")
    changed = document("a", 2, version="3", content="other")
    units = append(output, [touched, changed], run_id="r2")
    assert [piece.doc_id for unit in units for piece in unit.slices] == [changed.doc_id]
    assert read_documents(output).column("status").to_pylist() == ["ok", "duplicate", "ok"]


def test_bytes_that_could_not_be_opened_once_are_read_when_they_can_be(output: Output) -> None:
    locked = replace(document("a", 2), status="failed", pages=None, reason="encrypted")
    assert append(output, [locked]) == []
    (unit,) = append(output, [document("a", 2, version="2")], run_id="r2")
    assert unit.page_count == 2
    assert read_documents(output).column("status").to_pylist() == ["failed", "ok"]


def test_a_document_that_opens_at_the_second_try_supersedes_its_failed_row(output: Output) -> None:
    opened = document("a", 2)
    locked = replace(opened, status="failed", pages=None, reason=Reason.ENCRYPTED)
    append(output, [document("b"), FAILED, locked])
    objects = [(row.uri, row.version) for row in (opened, FAILED, document("b"))]
    assert new(output, *objects) == []
    assert new(output, *objects, again=[Reason.ENCRYPTED]) == objects[:1]
    assert append(output, [FAILED, locked], run_id="r2") == []  # still in vain: nothing to write
    assert plans(output) == 1
    (unit,) = append(output, [FAILED, opened], run_id="r3")
    assert [piece.doc_id for piece in unit.slices] == [opened.doc_id]
    assert new(output, *objects, again=[Reason.ENCRYPTED]) == []
    expected = {"s3://in/a.pdf": "ok", "s3://in/b.pdf": "ok", "s3://in/broken.pdf": "failed"}
    table = read_documents(output)
    assert dict(zip(table["uri"].to_pylist(), table["status"].to_pylist(), strict=True)) == expected
    assert publish(output) == 1
    files = find(join(output.uri, "documents"), ".parquet")
    rows = pa.concat_tables([pq.read_table(pa.BufferReader(get(uri))) for uri in files])
    assert dict(zip(rows["uri"].to_pylist(), rows["status"].to_pylist(), strict=True)) == expected
    assert len(rows) == 3
    assert publish(output) == 0


def test_a_truer_reason_supersedes_the_one_before(output: Output) -> None:
    append(output, [replace(FAILED, reason=Reason.UNREACHABLE)])
    append(output, [FAILED], run_id="r2")
    assert new(output, (FAILED.uri, FAILED.version), again=[Reason.UNREACHABLE]) == []
    assert read_documents(output).column("reason").to_pylist() == ["not-a-document"]


def test_a_file_name_that_is_not_utf8_is_planned_once(output: Output) -> None:
    row = replace(document("a"), uri=b"/in/caf\xe9.pdf".decode("utf-8", "surrogateescape"))
    (unit,) = append(output, [row])
    assert unit.slices[0].uri == "/in/caf\\udce9.pdf"
    assert new(output, (row.uri, row.version)) == []
    assert append(output, [row], run_id="r2") == []


def test_two_outputs_of_the_same_input_have_the_same_units(output_uri: str) -> None:
    documents = [document(f"{number}", number + 1) for number in range(6)]
    found = []
    for name, order in (("one", documents), ("other", documents[::-1])):
        output = Output.open(join(output_uri, name), {"mode": "tiny"})
        append(output, order, unit_pages=4, run_id=name)
        found.append(units(output))
    assert found[0] == found[1]


def test_racing_planners_agree_and_cover_every_object_once(output: Output) -> None:
    documents = [document(f"{number:02d}", number % 5 + 1) for number in range(30)]
    racers = 6
    start = Barrier(racers)

    def plan(racer: int) -> list[Unit]:
        mine = documents[racer * 3 : racer * 3 + 15]  # neighbours overlap
        with Snapshot(output) as snapshot:
            start.wait()
            snapshot.append(mine, unit_pages=4, run_id=f"r{racer}")
            done.wait()
            snapshot.refresh()
            return snapshot.units(snapshot.pending(()).units.tolist())

    done = Barrier(racers)
    with ThreadPoolExecutor(racers) as pool:
        seen = list(pool.map(plan, range(racers)))
    final = units(output)
    assert all(each == final for each in seen)
    assert Counter(page for unit in final for page in unit.pages()) == Counter(
        (row.doc_id, page) for row in documents for page in range(1, (row.pages or 0) + 1)
    )
    assert sorted(read_documents(output).column("uri").to_pylist()) == [row.uri for row in documents]
    assert len(find(join(output.uri, "documents"), ".parquet")) == plans(output)


def test_documents_rows_lost_to_a_kill_after_planning_come_back_when_published(output: Output) -> None:
    append(output, [document("a")])
    append(output, [document("b")], run_id="r2")
    lost = output.documents_uri(1)
    delete(lost)
    assert publish(output) == 1
    assert find(join(output.uri, "documents"), ".parquet") == [lost, output.documents_uri(2)]


def test_a_plan_that_is_none_is_named(output: Output) -> None:
    put(output.plan_uri(1), b"PAR1 no")
    with pytest.raises(RTPruneError, match=r"000001\.parquet"):
        Snapshot(output)


def test_a_plan_that_is_missing_is_named(output: Output) -> None:
    append(output, [document("a")])
    append(output, [document("b")])
    delete(output.plan_uri(1))
    with pytest.raises(RTPruneError, match=r"000001\.parquet is missing"):
        Snapshot(output)


@pytest.mark.parametrize("run_id", ["", "../x", "007", "r/1", "r" * 64])
def test_a_run_id_that_could_leave_its_folder_or_pass_for_a_number_is_refused(output: Output, run_id: str) -> None:
    with pytest.raises(UsageError, match="run id"):
        append(output, [document("a")], run_id=run_id)


def test_a_source_is_held_against_the_plan_in_its_own_order(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_OBJECTS", 7)
    append(output, [document(f"{number:03d}") for number in range(0, 100, 3)])
    objects = [(f"s3://in/{number:03d}.pdf", "1") for number in range(100)]
    expected = [each for number, each in enumerate(objects) if number % 3]
    assert new(output, *objects) == expected
    with Snapshot(output) as snapshot:
        snapshot.list_source((uri, 1, version) for uri, version in objects)
        assert snapshot.new_count == len(expected)
        turned = [(uri, version) for some in snapshot.new_objects(start=30) for uri, _, version in some]
    assert turned != expected
    assert sorted(turned) == expected


def test_what_others_plan_meanwhile_is_no_longer_unplanned(output: Output) -> None:
    objects = [(f"s3://in/{name}.pdf", 1, "1") for name in "abc"]
    with Snapshot(output) as snapshot:
        snapshot.list_source(objects)
        append(output, [document("b")], run_id="r2")
        assert snapshot.unplanned(objects) == objects
        snapshot.refresh()
        assert snapshot.unplanned(objects) == [objects[0], objects[2]]


def test_pending_is_what_is_planned_and_not_done(output: Output) -> None:
    planned = append(output, [document(f"{number:02d}", number + 1) for number in range(20)], unit_pages=6)
    done = {unit.unit_id for unit in planned[::2]}
    with Snapshot(output) as snapshot:
        pending = snapshot.pending(done)
        assert snapshot.units(pending.units.tolist()) == planned[1::2]
        assert pending.pages.tolist() == [unit.page_count for unit in planned[1::2]]
        assert snapshot.units([]) == []


def test_a_slice_knows_the_copies_of_its_document(output: Output) -> None:
    append(output, [document("b", 2, content="same"), document("a", 2, content="same"), document("c", 1)])
    append(output, [document("d", 2, content="same")])
    (unit,) = units(output)
    assert [(piece.uri, piece.copies) for piece in unit.slices] == [
        ("s3://in/a.pdf", ("s3://in/b.pdf", "s3://in/d.pdf")),
        ("s3://in/c.pdf", ()),
    ]


def test_a_long_document_lies_in_units_one_after_the_other(output: Output) -> None:
    planned = append(output, [document("a", 100), document("b", 3)], unit_pages=32)
    assert [(unit.slices[0].first_page, unit.page_count) for unit in planned] == [(1, 32), (33, 32), (65, 32), (97, 7)]
    assert [piece.uri for piece in planned[3].slices] == ["s3://in/a.pdf", "s3://in/b.pdf"]


@pytest.mark.parametrize("seed", range(5))
def test_digests_are_a_set(seed: int) -> None:
    dice = random.Random(seed)
    digests, kept = module._Digests(), set()
    for _ in range(20):
        some = [dice.randrange(2**64) for _ in range(dice.randrange(6000))]
        digests.add(np.array(some, np.uint64))
        kept |= set(some)
        asked = [*dice.sample(sorted(kept), min(50, len(kept))), *(dice.randrange(2**64) for _ in range(50))]
        assert digests.have(np.array(asked, np.uint64)).tolist() == [each in kept for each in asked]
