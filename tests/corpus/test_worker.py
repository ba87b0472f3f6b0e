"""What a worker commits for a unit, in this process: a row for every page, whatever happens to its document."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import torch

from rtprune.corpus import worker as worker_module
from rtprune.corpus.inspector import Inspector
from rtprune.corpus.page_flow import PageFlow, chosen
from rtprune.corpus.ray_cluster import Placement
from rtprune.corpus.values import Assignment, Tally
from rtprune.corpus.worker import Wear, Worker
from rtprune.dataset import Output, PageRow, Unit, is_done, read_pages, statistics
from rtprune.dataset.schema import page_table
from rtprune.documents import list_objects
from rtprune.engine import PageResult
from rtprune.errors import ModelError, Reason, StoreError, UsageError
from rtprune.report.summary import dataset_statistics
from rtprune.settings import NO_MODEL, RunSettings
from tests.corpus.toys import InstantEngine, InstantWorker, TalkingWorker
from tests.dataset.samples import plan
from tests.sources import quick_settings, write_corpus, write_pdf


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output.open(str(tmp_path / "out"), {"mode": "tiny"})


@pytest.fixture
def unit(tmp_path: Path, output: Output) -> Unit:
    """Two documents of two pages each, planned as one unit."""
    source = write_corpus(tmp_path / "source", documents=2, pages=2)
    rows = Inspector(None, 2).work(tuple(list_objects(str(source))), 1)
    (planned,) = plan(output, rows, unit_pages=64, run_id="r1")
    return planned


@pytest.fixture
def worker(output: Output, random_checkpoint: Path) -> Worker:
    made = Worker(output, "r1", quick_settings(random_checkpoint, batch_pages=3), "random", Placement(1, 1.0))
    made.ready()
    return made


def instant(output: Output, settings: RunSettings) -> InstantWorker:
    worker = InstantWorker(output, "r1", settings, "instant", Placement(1, 1.0))
    worker.ready()
    return worker


class Nothing:
    """A rendering of which no page is ever ready."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error

    def __iter__(self) -> Iterator[None]:
        if self._error:
            raise self._error
        while True:
            yield None

    def cancel(self) -> None:
        """Nothing is at work."""


def test_every_page_is_committed_with_what_the_engine_found(worker: Worker, unit: Unit, output: Output) -> None:
    tally = worker.work(Assignment(unit)).tally
    rows = read_pages(output).to_pylist()
    assert [(row["doc_id"], row["page"]) for row in rows] == list(unit.pages())
    assert tally.pages == 4
    assert all(row["output_tokens"] == row["decode_steps"] + row["accepted_tokens"] for row in rows)
    assert tally.tokens_before == sum(row["visual_tokens_before"] for row in rows) == 4 * 73
    assert tally.tokens_after == sum(row["visual_tokens_after"] for row in rows)
    for row in rows:
        assert row["model"] == "random"
        assert row["mode"] == "tiny"
        assert row["attempts"] == 1
        assert row["keep_ratio"] == pytest.approx(row["visual_tokens_after"] / 73)
        assert min(row["render_ms"], row["encode_ms"], row["prefill_ms"]) > 0


def test_a_page_the_engine_fails_on_has_a_reason_and_nothing_it_never_reached(
    worker: Worker, unit: Unit, output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = worker._flow._engine
    stream = engine.stream
    failed = PageResult("failed", reason=Reason.TOO_THIN, message="nothing to see")

    def spoiled(pages: Iterable[Any], audited: Any) -> Iterator[Any]:
        for name, result in stream(pages, audited):
            yield name, failed if name.page == 1 else result

    monkeypatch.setattr(engine, "stream", spoiled)
    worker._flow = PageFlow(engine, 0.0)
    assert worker.work(Assignment(unit)).tally.failed == 2
    row = next(row for row in read_pages(output).to_pylist() if row["status"] == "failed")
    assert (row["reason"], row["message"]) == ("too-thin", "nothing to see")
    assert row["render_ms"] > 0
    assert row["text"] is row["visual_tokens_before"] is row["output_tokens"] is row["decode_ms"] is None


def test_a_document_that_changed_since_it_was_planned_is_not_read_under_its_old_name(
    worker: Worker, unit: Unit, output: Output
) -> None:
    write_corpus(Path(unit.slices[0].uri).parent, documents=1, pages=3)
    worker.work(Assignment(unit))
    rows = read_pages(output).to_pylist()
    assert [row["reason"] for row in rows] == ["changed", "changed", None, None]


@pytest.mark.parametrize("fate", ["changed", "unreadable"])
def test_pages_of_an_object_that_is_gone_are_read_from_its_duplicate(
    fate: str, output: Output, tmp_path: Path, random_checkpoint: Path
) -> None:
    first, _, third = (write_pdf(tmp_path / "source" / f"{name}.pdf", 2) for name in "abc")
    for other in ("b", "c"):
        (tmp_path / "source" / f"{other}.pdf").write_bytes(first.read_bytes())
    rows = Inspector(None, 2).work(tuple(list_objects(str(first.parent))), 1)
    (unit,) = plan(output, rows, unit_pages=64, run_id="r1")
    assert [piece.uri for piece in unit.slices] == [str(first)]
    for gone in (first, tmp_path / "source" / "b.pdf"):
        gone.unlink()
        if fate == "changed":
            write_pdf(gone, 3, "another")
    settings = quick_settings(random_checkpoint, batch_pages=3)
    instant(output, settings).work(Assignment(unit))
    assert [(row["page"], row["status"], row["uri"]) for row in read_pages(output).to_pylist()] == [
        (1, "ok", str(third)),
        (2, "ok", str(third)),
    ]
    third.unlink()
    receipt = instant(output, settings).work(Assignment(unit, page=0))
    assert [(row.reason, row.uri) for row in receipt.rows] == [(fate, str(first))]


def test_what_the_store_does_not_give_is_no_pages_fault(
    worker: Worker, unit: Unit, output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker._renderers, "rendering", lambda ranges: Nothing(StoreError("the store did not answer")))
    with pytest.raises(StoreError, match="did not answer"):
        worker.work(Assignment(unit, attempt=2))
    assert read_pages(output).num_rows == 0


def test_a_page_read_alone_is_sent_back_and_not_committed(worker: Worker, unit: Unit, output: Output) -> None:
    receipt = worker.work(Assignment(unit, page=2))
    (row,) = receipt.rows
    assert (row.doc_id, row.page) == list(unit.pages())[2]
    assert receipt.tally.pages == 1
    assert read_pages(output).num_rows == 0
    assert not worker.work(Assignment(unit)).rows


def test_a_unit_that_is_there_is_not_read_again(worker: Worker, unit: Unit, output: Output) -> None:
    first = worker.work(Assignment(unit))
    worker._run_id = "another"
    again = worker.work(Assignment(unit))
    assert (first.outcome, again.outcome, again.tally) == ("committed", "elsewhere", Tally())


def test_what_a_lost_worker_of_this_run_committed_counts_for_the_run(worker: Worker, unit: Unit) -> None:
    first = worker.work(Assignment(unit))
    again = worker.work(Assignment(unit, attempt=2))
    assert (again.outcome, again.tally) == ("committed", first.tally)


def test_a_unit_that_another_run_commits_meanwhile_is_doubled_work_and_no_second_row(
    worker: Worker, unit: Unit, output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "is_done", lambda output, unit_id: False)
    assert [worker.work(Assignment(unit)).outcome for _ in range(2)] == ["committed", "doubled"]
    assert read_pages(output).num_rows == 4


def test_pages_of_several_units_flow_through_one_engine(
    output: Output, tmp_path: Path, random_checkpoint: Path
) -> None:
    """Neither unit could end if the engine waited for one of them to."""
    source = write_corpus(tmp_path / "source", documents=2, pages=3)
    units = plan(output, Inspector(None, 2).work(tuple(list_objects(str(source))), 1), unit_pages=3, run_id="r1")
    both = Barrier(2)

    class Meeting(InstantEngine):
        def stream(self, pages: Iterable[Any], audited: object) -> Iterator[tuple[Any, Any]]:
            held: list[Any] = []
            met: set[Any] = set()
            for name, _ in filter(None, pages):
                held.append(name)
                met.add(name.reading)
                if len(met) == 2:
                    yield from ((each, self.result()) for each in held)
                    held.clear()

    worker = InstantWorker(output, "r1", quick_settings(random_checkpoint), "instant", Placement(1, 1.0))
    worker.engine = Meeting
    worker.ready()

    def work(unit: Unit) -> str:
        both.wait()
        return worker.work(Assignment(unit)).outcome

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(work, units)) == ["committed", "committed"]
    assert read_pages(output).num_rows == 6


def test_an_engine_that_raises_fails_what_it_had_and_reads_on(
    output: Output, unit: Unit, random_checkpoint: Path
) -> None:
    class Buggy(InstantEngine):
        bugs = 1

        def result(self) -> Any:
            if self.bugs:
                self.bugs -= 1
                raise RuntimeError("a bug")
            return super().result()

    worker = InstantWorker(output, "r1", quick_settings(random_checkpoint), "instant", Placement(1, 1.0))
    worker.engine = Buggy
    worker.ready()
    with pytest.raises(RuntimeError, match="a bug"):
        worker.work(Assignment(unit))
    assert worker.work(Assignment(unit)).tally.pages == 4


def test_released_a_worker_gives_back_what_has_no_page_yet(
    worker: Worker, unit: Unit, output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker._renderers, "rendering", lambda ranges: Nothing())
    worker.release()
    assert worker.work(Assignment(unit)).outcome == "returned"
    assert not is_done(output, unit.unit_id)


def test_what_a_worker_logs_goes_with_its_next_answer(output: Output, unit: Unit, random_checkpoint: Path) -> None:
    worker = TalkingWorker(output, "r1", quick_settings(random_checkpoint), "instant", Placement(1, 1.0))
    worker.ready()
    said = ("rtprune.toys", logging.WARNING, f"unit {unit.unit_id} is being read")
    assert worker.work(Assignment(unit)).logs == (said,)
    assert worker.pulse().logs == ()


def test_pruning_ends_where_the_run_says_so(worker: Worker, unit: Unit) -> None:
    assert worker.work(Assignment(unit, page=0)).tally.tokens_after < 73
    for _ in range(2):
        assert worker.work(Assignment(unit, page=0, prune=False)).tally.tokens_after == 73


def test_a_worker_is_worn_by_pages_and_by_growth() -> None:
    wear = Wear(most_pages=8, most_growth_mib=10_000)
    assert [wear.is_worn_by(4) for _ in range(2)] == [False, True]
    wear = Wear(most_pages=10_000, most_growth_mib=64)
    assert not wear.is_worn_by(4)
    hoard = bytearray(b"\1" * (100 * 2**20))
    assert wear.is_worn_by(4)
    assert hoard


def test_without_a_model_pages_are_rendered_and_skipped(output: Output, unit: Unit) -> None:
    made = Worker(output, "r1", RunSettings(model=NO_MODEL, max_pixels=40_000), "none", Placement(1, 1.0))
    made.ready()
    assert made.work(Assignment(unit)).tally == Tally(pages=4)
    for row in read_pages(output).to_pylist():
        assert (row["status"], row["model"], row["text"], row["mode"]) == ("skipped", "none", None, None)
        assert row["render_ms"] > 0
        assert 0.4 < row["scale"] < 0.6, "400 x 400 pixels were asked for"


def test_a_document_planned_with_a_password_is_not_failed_for_lack_of_it(
    worker: Worker, tmp_path: Path, output: Output
) -> None:
    path = write_pdf(tmp_path / "locked" / "a.pdf", 1, password="sesame")
    rows = Inspector("sesame", 2).work(tuple(list_objects(str(path))), 1)
    (planned,) = plan(output, rows, unit_pages=64, run_id="r1")
    with pytest.raises(UsageError, match=r"a\.pdf is encrypted.*--password"):
        worker.work(Assignment(planned))
    assert read_pages(output).num_rows == 0


def test_a_worker_placed_on_a_gpu_that_torch_cannot_use_says_so(output: Output, random_checkpoint: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(UsageError, match="no GPU that it can use"):
        Worker(output, "r1", quick_settings(random_checkpoint), "random", Placement(1, 1.0, 1.0)).ready()


def test_a_checkpoint_that_cannot_be_loaded_is_a_model_error(output: Output, tmp_path: Path) -> None:
    settings = quick_settings(tmp_path / "nothing")
    with pytest.raises(ModelError):
        Worker(output, "r1", settings, "nothing", Placement(1, 1.0)).ready()


def test_audited_pages_tell_what_pruning_changed(output: Output, unit: Unit, random_checkpoint: Path) -> None:
    settings = quick_settings(random_checkpoint, audit_fraction=1.0)
    auditing = Worker(output, "r1", settings, "random", Placement(1, 1.0))
    auditing.ready()
    auditing.work(Assignment(unit))
    rows = read_pages(output).to_pylist()
    assert all(0 <= row["audit_distance"] <= 1 for row in rows)
    assert all(row["audit_output_tokens"] > 0 for row in rows)
    assert all(row["visual_tokens_after"] < row["visual_tokens_before"] for row in rows), "the row is the pruned page"
    told = statistics(output)
    assert told.audited_pages == 4
    assert told.audit_distance == pytest.approx(sum(row["audit_distance"] for row in rows) / 4)
    kept = f"{100 * (1 - told.audit_distance):.1f} % of the unpruned text"
    assert f"pruned text keeps {kept}, on the mean of 4 audited pages" in dataset_statistics(output.uri, told)


def test_the_pages_that_are_audited_are_always_the_same_ones() -> None:
    names = [f"{index:064x}:1" for index in range(4000)]
    picked = {name for name in names if chosen(name, 0.1)}
    assert picked == {name for name in reversed(names) if chosen(name, 0.1)}
    assert 320 < len(picked) < 480
    assert picked < {name for name in names if chosen(name, 0.3)}, "a larger share has the smaller one's pages"
    assert not any(chosen(name, 0.0) for name in names)
    assert all(chosen(name, 1.0) for name in names)


def test_tallies_add_up() -> None:
    assert sum([Tally(1, 0, 10, 8), Tally(2, 1, 20, 15)], Tally()) == Tally(3, 1, 30, 23)


def test_tallies_keep_the_first_failures_and_a_difference_has_none() -> None:
    rows = [PageRow("d", "s3://in/a.pdf", page, "failed", "m", reason=Reason.DAMAGED) for page in range(1, 31)]
    late, early = Tally.of(rows[15:]), Tally.of(rows[:15])
    assert [row.page for row in (late + early).failures] == list(range(1, 11))
    assert [row.page for row in (late + Tally(3)).failures] == list(range(16, 26))
    assert (late - Tally(1)).failures == ()
    table = page_table(rows[:2], run_id="r1", config_hash="c")
    assert Tally.of_table(table).failures == Tally.of(rows[:2]).failures
