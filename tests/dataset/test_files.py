"""Every planned page ends in exactly one row, whoever races and whatever is killed."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import boto3
import pytest

from rtprune.dataset import (
    CompactedFile,
    Output,
    Unit,
    commit_unit,
    compact_dataset,
    current_files,
    done_units,
    is_done,
    read_pages,
    sweep,
)
from rtprune.errors import RTPruneError, StoreError
from rtprune.store import find, join, put
from tests.conftest import REPOSITORY
from tests.dataset.commit_loop import DOCUMENTS
from tests.dataset.samples import (
    CONFIG,
    check_exactly_once,
    document,
    glob_pages,
    plan,
    planned_units,
    publish_documents,
    rows_of,
)

CORPUS = [document("a", 5), document("b", 3), document("c", 9)]


@pytest.fixture
def units(output: Output) -> tuple[Unit, ...]:
    return plan(output, CORPUS, unit_pages=4, run_id="r1")


def data_files(output: Output) -> list[str]:
    return find(join(output.uri, "pages"), ".parquet")


def test_a_unit_is_done_when_its_file_is_there(output: Output, units: tuple[Unit, ...]) -> None:
    assert not is_done(output, units[0].unit_id)
    assert commit_unit(output, units[0], rows_of(units[0]), "r1")
    assert data_files(output) == [output.unit_uri(units[0].unit_id)]
    assert [is_done(output, unit.unit_id) for unit in units[:2]] == [True, False]
    assert done_units(output) == {units[0].unit_id}
    assert read_pages(output).num_rows == units[0].page_count
    for unit in units[1:]:
        commit_unit(output, unit, rows_of(unit), "r1")
    assert done_units(output) == {unit.unit_id for unit in units}
    check_exactly_once(output, CORPUS)


def test_asking_whether_a_unit_is_done_does_not_hide_a_store_that_fails(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = Output.open(f"{bucket}/out", CONFIG)

    def fail(*given: object, **named: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("s3fs.S3FileSystem.call_s3", fail)
    with pytest.raises(StoreError):
        is_done(output, "0" * 24)


def test_of_many_workers_the_first_commits_the_unit(output: Output, units: tuple[Unit, ...]) -> None:
    racers = 8
    start = Barrier(racers)

    def commit(racer: int) -> bool:
        rows = rows_of(units[0], say=f"racer {racer}")
        start.wait()
        return commit_unit(output, units[0], rows, f"r{racer % 3}")

    with ThreadPoolExecutor(racers) as pool:
        first = list(pool.map(commit, range(racers)))
    assert first.count(True) == 1
    assert len(data_files(output)) == 1
    said = {text.rsplit(" ", 1)[0] for text in read_pages(output).column("text").to_pylist()}
    assert said == {f"racer {first.index(True)}"}


def test_a_file_whose_answer_was_lost_is_still_ours(
    output: Output, units: tuple[Unit, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store made the file, the answer got lost, and the client's own second attempt is told that it exists."""

    def twice(uri: str, data: bytes) -> bool:
        put(uri, data)
        return False

    monkeypatch.setattr("rtprune.dataset.files.create_if_absent", twice)
    assert commit_unit(output, units[0], rows_of(units[0]), "r1")
    assert read_pages(output).num_rows == units[0].page_count


def test_a_store_that_fails_at_a_commit_can_be_asked_again(
    output: Output, units: tuple[Unit, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(uri: str, data: bytes) -> bool:
        raise StoreError("the store did not answer")

    with monkeypatch.context() as patch:
        patch.setattr("rtprune.dataset.files.create_if_absent", fail)
        with pytest.raises(StoreError):
            commit_unit(output, units[0], rows_of(units[0]), "r1")
    assert data_files(output) == []
    assert commit_unit(output, units[0], rows_of(units[0]), "r1")


@pytest.mark.parametrize("fault", ["missing", "repeated", "foreign", "none"])
def test_rows_that_are_not_the_units_pages_are_refused(output: Output, units: tuple[Unit, ...], fault: str) -> None:
    rows = rows_of(units[0])
    wrong = {
        "missing": rows[1:],
        "repeated": [*rows, rows[0]],
        "foreign": [*rows[1:], replace(rows[0], page=99)],
        "none": [],
    }[fault]
    with pytest.raises(RTPruneError, match=units[0].unit_id):
        commit_unit(output, units[0], wrong, "r1")
    assert data_files(output) == []
    assert done_units(output) == set()


@contextmanager
def committed_late(output: Output, unit: Unit) -> Iterator[None]:
    """A worker that was slow: it commits ``unit`` after a compaction has taken it in."""
    yield
    assert commit_unit(output, unit, rows_of(unit, say="late"), "r9")


def test_a_unit_committed_after_it_was_compacted_is_dead_and_swept(output: Output, units: tuple[Unit, ...]) -> None:
    with committed_late(output, units[0]):
        for unit in units:
            commit_unit(output, unit, rows_of(unit), "r1")
        compact_dataset(output)
        assert done_units(output) == {unit.unit_id for unit in units}
        assert not is_done(output, units[0].unit_id)
    assert len(glob_pages(output)) == 17 + units[0].page_count
    assert read_pages(output).num_rows == 17
    assert "late 1" not in read_pages(output).column("text").to_pylist()
    assert isinstance(current_files(output).by_unit[units[0].unit_id], CompactedFile)
    assert sweep(output) == 1
    check_exactly_once(output, CORPUS)
    assert sweep(output) == 0


def test_a_sweep_leaves_alone_what_it_does_not_know(output: Output, units: tuple[Unit, ...]) -> None:
    commit_unit(output, units[0], rows_of(units[0]), "r1")
    strange = [join(output.uri, "pages", name) for name in ("mine.parquet", "merged/x.parquet", "ff/000000.parquet")]
    for uri in strange:
        put(uri, b"PAR1")
    assert sweep(output) == 0
    assert {*strange, output.unit_uri(units[0].unit_id)} == set(data_files(output))
    assert read_pages(output).num_rows == units[0].page_count


def snapshot(output: Output) -> list[tuple[str, object]]:
    """Every object with what changes at every write: its version in the store, its inode and time on disk."""
    if not output.uri.startswith("s3://"):
        paths = [path for path in Path(output.uri).rglob("*") if path.is_file()]
        return sorted((str(path), (path.stat().st_ino, path.stat().st_mtime_ns)) for path in paths)
    bucket = output.uri.removeprefix("s3://").split("/")[0]
    versions = boto3.client("s3").list_object_versions(Bucket=bucket)
    return sorted((entry["Key"], entry["VersionId"]) for entry in versions["Versions"])


def test_a_finished_corpus_run_again_does_no_work_and_writes_nothing(output_uri: str) -> None:
    if output_uri.startswith("s3://"):
        boto3.client("s3").put_bucket_versioning(
            Bucket=output_uri.removeprefix("s3://").split("/")[0], VersioningConfiguration={"Status": "Enabled"}
        )

    def run(run_id: str) -> int:
        output = Output.open(output_uri, CONFIG)
        plan(output, CORPUS, unit_pages=4, run_id=run_id)
        done = done_units(output)
        missing = [unit for unit in planned_units(output) if unit.unit_id not in done]
        for unit in missing:
            commit_unit(output, unit, rows_of(unit), run_id)
        assert publish_documents(output) == sweep(output) == 0
        return len(missing)

    assert run("r1") > 0
    before = snapshot(Output.existing(output_uri))
    assert run("r2") == 0
    assert snapshot(Output.existing(output_uri)) == before


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed_every_page_is_there_once(output: Output) -> None:
    """Two processes do the same work at once and are killed together, again and again, then left to end it."""
    moments = random.Random(7)
    for trial in range(4):
        processes = _start_together(output.uri, f"r{trial}a", f"r{trial}b")
        for _ in range(moments.randrange(4)):
            _line(processes[0])
        time.sleep(moments.uniform(0.0, 0.02))
        for process in processes:
            process.kill()
        codes = [process.wait() for process in processes]
        assert trial > 0 or codes == [-signal.SIGKILL] * 2, "there was too little work to be killed at"
        assert len(glob_pages(output)) == len(set(glob_pages(output)))
        pages = [(row["doc_id"], row["page"]) for row in read_pages(output, ["doc_id", "page"]).to_pylist()]
        assert len(pages) == len(set(pages))
    for process in _start_together(output.uri, "end-a", "end-b"):
        process.communicate(timeout=120)
        assert process.returncode == 0
    check_exactly_once(output, DOCUMENTS)
    assert publish_documents(output) == sweep(output) == 0


def _start_together(output_uri: str, *run_ids: str) -> list[subprocess.Popen[bytes]]:
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.dataset.commit_loop", output_uri, run_id],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for run_id in run_ids
    ]
    for process in processes:
        _line(process)
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
    return processes


def _line(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    process.stdout.readline()
