"""A corpus from source to dataset on a real local Ray: complete, exactly once, and never done twice."""

from __future__ import annotations

import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rtprune.corpus import inspector, look_into, read_units, run
from rtprune.corpus.run import run_corpus
from rtprune.corpus.values import Discovered, Done, Progress, Run, RunSummary
from rtprune.corpus.worker import Worker
from rtprune.dataset import Output, Snapshot, done_units, read_documents, read_pages
from rtprune.errors import ModelError, RTPruneError, StoreError, UsageError
from rtprune.settings import RunSettings
from tests.corpus.toys import (
    AwayWorker,
    CostlyWorker,
    DyingWorker,
    HangingWorker,
    InstantWorker,
    LosingWorker,
    PoisonedWorker,
    RaisingWorker,
    SlowWorker,
    TalkingWorker,
    WornWorker,
)
from tests.processes import descendants
from tests.sources import assert_complete, quick_settings, write_corpus, write_pdf

pytestmark = pytest.mark.usefixtures("local_ray")


def state(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_bad_files_have_a_row_good_pages_are_read_and_a_second_run_does_nothing(
    tmp_path: Path, random_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_corpus(tmp_path / "source", documents=4, pages=3)
    shutil.copy(source / "document-00.pdf", source / "copy.pdf")
    (source / "broken.pdf").write_bytes(b"%PDF-1.7 and nothing else")
    heard: list[Progress] = []
    settings = quick_settings(random_checkpoint)
    summary = run_corpus(str(source), str(tmp_path / "out"), settings, on_progress=heard.append)

    assert (summary.status, summary.documents, summary.documents_failed) == ("finished", 6, 1)
    assert summary.tally.pages == 12
    assert_complete(summary.output)
    rows = {Path(row["uri"]).name: row for row in read_documents(Output.existing(summary.output)).to_pylist()}
    assert rows["broken.pdf"]["status"] == "failed"
    assert rows["broken.pdf"]["reason"]
    assert sorted(rows[name]["status"] for name in ("copy.pdf", "document-00.pdf")) == ["duplicate", "ok"]
    assert heard[-1] == Progress("read", 12, 12, 0, summary.tally.tokens_before, summary.tally.tokens_after)

    before = state(tmp_path / "out")
    monkeypatch.setattr(run, "ray_session", None)  # a second run must not even ask for Ray
    again = run_corpus(str(source), str(tmp_path / "out"), settings)
    assert again.status == "nothing to do"
    assert state(tmp_path / "out") == before


def test_new_and_changed_objects_are_added_to_what_is_there(
    tmp_path: Path, random_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "Worker", InstantWorker)
    source = write_corpus(tmp_path / "source", documents=2, pages=1)
    settings = quick_settings(random_checkpoint)
    run_corpus(str(source), str(tmp_path / "out"), settings)
    write_pdf(source / "new.pdf", 2, "new")
    write_pdf(source / "document-00.pdf", 2, "changed")
    summary = run_corpus(str(source), str(tmp_path / "out"), settings)
    assert (summary.documents, summary.tally.pages) == (2, 4)
    assert_complete(summary.output)
    assert read_pages(Output.existing(summary.output)).num_rows == 6


def test_a_locked_document_is_read_by_the_run_that_brings_its_password(
    tmp_path: Path, random_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_corpus(tmp_path / "source", documents=1, pages=1)
    write_pdf(source / "locked.pdf", 2, password="sesame")
    monkeypatch.setattr(run, "Worker", InstantWorker)
    settings = quick_settings(random_checkpoint)
    output = str(tmp_path / "out")
    assert run_corpus(str(source), output, settings).documents_failed == 1
    assert run_corpus(str(source), output, settings).status == "nothing to do"

    monkeypatch.setattr(run, "Worker", Worker)
    opened = run_corpus(str(source), output, settings.model_copy(update={"password": "sesame"}))
    assert (opened.documents, opened.documents_failed, opened.tally.pages, opened.tally.failed) == (1, 0, 2, 0)
    assert read_documents(Output.existing(output)).column("status").to_pylist() == ["ok", "ok"]
    assert assert_complete(output).total() == 3


def test_source_and_dataset_in_an_object_store(bucket: str, tmp_path: Path, random_checkpoint: Path) -> None:
    from rtprune.store import join, put

    for path in sorted(write_corpus(tmp_path / "source", documents=3, pages=2).iterdir()):
        put(join(bucket, "in", path.name), path.read_bytes())
    summary = run_corpus(join(bucket, "in"), join(bucket, "out"), quick_settings(random_checkpoint))
    assert summary.tally.pages == 6
    assert_complete(join(bucket, "out"))
    assert run_corpus(join(bucket, "in"), join(bucket, "out"), quick_settings(random_checkpoint)).status == (
        "nothing to do"
    )


def test_killed_worker_is_replaced_and_every_page_is_there_once(tmp_path: Path, random_checkpoint: Path) -> None:
    source = write_corpus(tmp_path / "source", documents=8, pages=4)
    killed: list[int] = []

    def kill_one(progress: Progress) -> None:
        if progress.stage == "read" and 0 < progress.done < progress.total and not killed:
            workers = [pid for pid, command in descendants(os.getpid()).items() if command.startswith("ray::Worker")]
            killed.append(workers[0])
            os.kill(workers[0], signal.SIGKILL)

    settings = quick_settings(random_checkpoint, unit_pages=4, workers=2)
    summary = run_corpus(str(source), str(tmp_path / "out"), settings, on_progress=kill_one)
    assert killed
    assert (summary.status, summary.tally.pages, summary.tally.failed) == ("finished", 32, 0)
    assert_complete(summary.output)
    assert max(read_pages(Output.existing(summary.output)).column("attempts").to_pylist()) <= 2


@pytest.mark.parametrize(
    ("reader", "reason", "attempts"),
    [
        (DyingWorker, "worker-died", 2),
        (LosingWorker, "worker-died", 2),
        (HangingWorker, "timeout", 2),
        (RaisingWorker, "unexpected", 1),
    ],
)
def test_page_that_cannot_be_read_is_recorded_as_failed(
    reader: type[Worker],
    reason: str,
    attempts: int,
    tmp_path: Path,
    random_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run, "Worker", reader)
    source = write_corpus(tmp_path / "source", documents=1, pages=1)
    timeout = 1.0 if reader is HangingWorker else 60.0
    settings = quick_settings(random_checkpoint, unit_pages=3, unit_timeout_s=timeout)
    summary = run_corpus(str(source), str(tmp_path / "out"), settings)
    assert summary.status == "finished"
    assert assert_complete(summary.output) == {"failed": 1}
    for row in read_pages(Output.existing(summary.output)).to_pylist():
        assert (row["reason"], row["attempts"]) == (reason, attempts)
        assert row["message"]


def test_only_the_guilty_pages_of_a_unit_are_lost(
    tmp_path: Path, random_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run, "Worker", PoisonedWorker)
    source = write_corpus(tmp_path / "source", documents=1, pages=4)
    write_corpus(tmp_path / "source" / "good", documents=1, pages=2)
    summary = run_corpus(str(source), str(tmp_path / "out"), quick_settings(random_checkpoint, unit_pages=4))
    assert assert_complete(summary.output) == {"ok": 5, "failed": 1}
    assert (summary.tally.pages, summary.tally.failed, summary.units) == (6, 1, 2)
    for row in read_pages(Output.existing(summary.output)).to_pylist():
        assert (row["status"] == "failed") == (row["page"] == 3)
        assert row["reason"] == ("worker-died" if row["page"] == 3 else None)
    assert caplog.text.count("is read page by page") == 1


def test_a_worn_worker_is_replaced(tmp_path: Path, random_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "Worker", WornWorker)
    source = write_corpus(tmp_path / "source", documents=12, pages=1)
    settings = quick_settings(random_checkpoint, unit_pages=1, workers=1)
    summary = run_corpus(str(source), str(tmp_path / "out"), settings)
    processes = set(read_pages(Output.existing(summary.output)).column("model").to_pylist())
    # other units are with the worker when the first ends
    assert len(processes) >= 12 / run.units_in_flight(settings, gpu=False)
    assert assert_complete(summary.output) == {"ok": 12}


def test_pruning_that_costs_too_much_ends_for_the_whole_run(
    tmp_path: Path, random_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run, "Worker", CostlyWorker)
    source = write_corpus(tmp_path / "source", documents=12, pages=2)
    settings = quick_settings(random_checkpoint, audit_floor=0.9)
    summary = run_corpus(str(source), str(tmp_path / "out"), settings)
    texts = read_pages(Output.existing(summary.output)).column("text").to_pylist()
    assert texts.count("prune=True") >= 10
    assert texts.count("prune=False") >= 6
    assert caplog.text.count("PRUNING IS OFF from here on: 10 audited pages keep 50.0 %") == 1


def test_runs_at_the_same_time_share_the_work(
    tmp_path: Path, random_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice is done what both begin before either commits it: at most what a worker holds, wherever they meet."""
    monkeypatch.setattr(run, "Worker", SlowWorker)
    source = write_corpus(tmp_path / "source", documents=40, pages=1)
    settings = quick_settings(random_checkpoint, workers=1, unit_pages=1)

    def go(_: int) -> RunSummary:
        return run_corpus(str(source), str(tmp_path / "out"), settings)

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(go, range(2))
    assert assert_complete(str(tmp_path / "out")) == {"ok": 40}
    assert first.units + second.units == 40, "each unit was committed by one of them"
    assert (first.units_left, second.units_left) == (0, 0)


def test_a_unit_that_another_run_commits_meanwhile_counts_for_the_other(
    tmp_path: Path, random_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "Worker", InstantWorker)
    monkeypatch.setattr(read_units, "LOOK_AGAIN_S", 0.0)
    source, out = write_corpus(tmp_path / "source", documents=12, pages=2), str(tmp_path / "out")
    settings = quick_settings(random_checkpoint, workers=1)
    mine = run.prepare(str(source), out, settings)
    discovered = run.discover(mine)
    with discovered.snapshot:
        run.plan(mine, discovered)
        other = run_corpus(str(source), out, settings)
        heard: list[Progress] = []
        done = read_behind(mine, discovered, heard)
    assert (other.units, done.units, done.left, done.elsewhere) == (12, 0, 0, 12)
    assert heard[-1].done == heard[-1].total == 0
    assert assert_complete(out) == {"ok": 24}


def read_behind(mine: Run, discovered: Discovered, heard: list[Progress]) -> Done:
    """Read as a run does that looked into the dataset before the other began."""
    before = discovered.snapshot.pending(())
    with pytest.MonkeyPatch.context() as patch:
        first = iter([set()])
        patch.setattr(run, "done_units", lambda output: next(first, done_units(output)))
        assert len(before.units) == 12
        return run.read(mine, discovered, heard.append)


def test_a_corpus_can_be_looked_over_without_a_model(tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "source", documents=3, pages=2)
    (source / "bad.pdf").write_bytes(b"%PDF-1.7 and nothing")
    settings = RunSettings(model="none", unit_pages=2)
    summary = run_corpus(str(source), str(tmp_path / "out"), settings)
    assert (summary.tally.pages, summary.tally.failed, summary.documents_failed) == (6, 0, 1)
    assert assert_complete(summary.output) == {"skipped": 6}
    assert run_corpus(str(source), str(tmp_path / "out"), settings).status == "nothing to do"


def test_when_unit_after_unit_fails_the_run_ends_instead_of_writing_failures(
    tmp_path: Path, random_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "Worker", RaisingWorker)
    source = write_corpus(tmp_path / "source", documents=8, pages=1)
    with pytest.raises(RTPruneError, match="3 units in a row"):
        run_corpus(str(source), str(tmp_path / "out"), quick_settings(random_checkpoint, unit_pages=1))
    (row,) = pq.read_table(tmp_path / "out" / "runs").to_pylist()
    assert row["status"] == "failed"
    assert "a bug" in row["message"]
    assert not (tmp_path / "out" / "pages").exists()

    monkeypatch.setattr(run, "Worker", InstantWorker)  # mended
    run_corpus(str(source), str(tmp_path / "out"), quick_settings(random_checkpoint, unit_pages=1))
    assert assert_complete(str(tmp_path / "out")) == {"ok": 8}


def test_what_the_store_did_not_give_is_left_for_the_next_run_and_all_else_is_read(
    tmp_path: Path, random_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "Worker", AwayWorker)
    source = write_corpus(tmp_path / "source", documents=4, pages=1)
    settings = quick_settings(random_checkpoint, unit_pages=1)
    with pytest.raises(StoreError, match="did not answer"):
        run_corpus(str(source), str(tmp_path / "out"), settings)
    assert read_pages(Output.existing(str(tmp_path / "out"))).num_rows == 3
    monkeypatch.setattr(run, "Worker", InstantWorker)
    assert run_corpus(str(source), str(tmp_path / "out"), settings).tally.pages == 1
    assert assert_complete(str(tmp_path / "out")) == {"ok": 4}


def test_a_dataset_inside_its_source_is_not_read(
    tmp_path: Path, random_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "Worker", InstantWorker)
    source = write_corpus(tmp_path / "source", documents=2, pages=1)
    settings = quick_settings(random_checkpoint)
    assert run_corpus(str(source), str(source / "text"), settings).objects == 2
    assert run_corpus(str(source), str(source / "text"), settings).status == "nothing to do"


def test_stopped_run_keeps_what_is_committed_and_the_next_one_does_the_rest(
    tmp_path: Path, random_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "Worker", InstantWorker)
    source = write_corpus(tmp_path / "source", documents=6, pages=2)
    settings = quick_settings(random_checkpoint, workers=1)
    done = 0

    def watch(progress: Progress) -> None:
        nonlocal done
        done = progress.done if progress.stage == "read" else 0

    stopped = run_corpus(str(source), str(tmp_path / "out"), settings, on_progress=watch, should_stop=lambda: done > 0)
    assert stopped.status == "stopped"
    assert 0 < stopped.units < 6
    assert stopped.units + stopped.units_left == 6
    rest = run_corpus(str(source), str(tmp_path / "out"), settings)
    assert stopped.tally.pages + rest.tally.pages == 12
    assert_complete(rest.output)


@pytest.mark.parametrize(
    ("changed", "error"),
    [({"model": "/no/such/folder"}, ModelError), ({"mode": "enormous"}, UsageError), ({"task": "poem"}, UsageError)],
)
def test_wrong_model_mode_or_task_is_told_before_anything_is_written_or_started(
    changed: dict[str, str],
    error: type[Exception],
    tmp_path: Path,
    random_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run, "ray_session", None)
    source = write_corpus(tmp_path / "source", documents=1, pages=1)
    with pytest.raises(error):
        run_corpus(str(source), str(tmp_path / "out"), quick_settings(random_checkpoint, **changed))
    assert not (tmp_path / "out").exists()


def test_model_that_cannot_be_loaded_ends_the_run_with_one_error(tmp_path: Path, random_checkpoint: Path) -> None:
    broken = shutil.copytree(random_checkpoint, tmp_path / "broken")
    (broken / "tokenizer.json").write_text("{}")
    source = write_corpus(tmp_path / "source", documents=4, pages=1)
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        run_corpus(str(source), str(tmp_path / "out"), quick_settings(broken))


def test_another_mode_is_another_configuration(tmp_path: Path, random_checkpoint: Path) -> None:
    source = write_corpus(tmp_path / "source", documents=1, pages=1)
    run.discover(run.prepare(str(source), str(tmp_path / "out"), quick_settings(random_checkpoint)))
    with pytest.raises(UsageError, match="mode is 'tiny' there and 'small' here"):
        run_corpus(str(source), str(tmp_path / "out"), quick_settings(random_checkpoint, mode="small"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["broken", "images"])
def test_every_troublesome_file_gives_rows(
    name: str, shared_data: Path, tmp_path: Path, random_checkpoint: Path
) -> None:
    folder, output = shared_data / name, str(tmp_path / "out")
    settings = quick_settings(random_checkpoint, unit_pages=32, batch_pages=4, max_pixels=1_000_000, dpi=72)
    summary = run_corpus(str(folder), output, settings)
    documents = read_documents(Output.existing(output)).to_pylist()
    assert summary.status == "finished"
    assert sorted(Path(row["uri"]).name for row in documents) == sorted(path.name for path in folder.iterdir())
    assert all(row["reason"] and row["message"] for row in documents if row["status"] == "failed")
    assert sum(assert_complete(output).values()) > 0


def test_what_a_worker_warns_of_is_logged_once_with_its_name(
    tmp_path: Path, random_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run, "Worker", TalkingWorker)
    source = write_corpus(tmp_path / "source", documents=3, pages=2)
    summary = run_corpus(str(source), str(tmp_path / "out"), quick_settings(random_checkpoint, workers=1))
    with Snapshot(Output.existing(summary.output)) as snapshot:
        units = snapshot.units(snapshot.pending(()).units.tolist())
    warned = [record for record in caplog.records if record.name == "rtprune.toys"]
    assert sorted(record.getMessage() for record in warned) == sorted(
        f"worker 1: unit {unit.unit_id} is being read" for unit in units
    )


def test_plans_are_written_while_documents_are_looked_into(
    tmp_path: Path, random_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "Worker", InstantWorker)
    monkeypatch.setattr(look_into, "PLAN_EVERY_S", 0.0)
    monkeypatch.setattr(look_into, "IN_FLIGHT", 1)  # so that what is looked into does not end all at once
    for module in (look_into, inspector):
        monkeypatch.setattr(module, "BATCH_OBJECTS", 1)
    source = write_corpus(tmp_path / "source", documents=40, pages=1)
    summary = run_corpus(str(source), str(tmp_path / "out"), quick_settings(random_checkpoint))
    assert len(list((tmp_path / "out" / "_rtprune" / "plans").iterdir())) > 1
    assert assert_complete(summary.output) == {"ok": 40}


def test_a_worker_has_more_units_at_a_time_where_they_are_small() -> None:
    assert [run.units_in_flight(RunSettings(unit_pages=64), gpu=gpu) for gpu in (False, True)] == [2, 5]
    assert run.units_in_flight(RunSettings(unit_pages=64, batch_pages=64), gpu=True) == 3
    assert run.units_in_flight(RunSettings(unit_pages=1), gpu=False) == run.MOST_IN_FLIGHT
