"""Every planned page ends in exactly one committed row, whoever races and whatever is killed."""

from __future__ import annotations

import io
import json
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Barrier

import boto3
import pyarrow.parquet as pq
import pytest

from rtprune.dataset import (
    Claims,
    Output,
    PlanLog,
    RunRow,
    Unit,
    bury_dead_runs,
    commit_unit,
    committed_files,
    committed_units,
    publish,
    read_pages,
    record_run,
)
from rtprune.errors import RTPruneError, StoreError
from rtprune.store import create_if_absent, find, get, join, put
from tests.conftest import REPOSITORY
from tests.dataset.commit_loop import DOCUMENTS
from tests.dataset.samples import CONFIG, check_exactly_once, document, rows_of

CORPUS = [document("a", 5), document("b", 3), document("c", 9)]


@pytest.fixture
def units(output: Output) -> tuple[Unit, ...]:
    return PlanLog(output).append(CORPUS, unit_pages=4, run_id="r1")


def data_files(output: Output) -> list[str]:
    return find(join(output.uri, "pages"), ".parquet")


def test_committed_rows_are_read_and_uncommitted_ones_are_not(output: Output, units: tuple[Unit, ...]) -> None:
    commit_unit(output, units[0], rows_of(units[0]), "r1")
    assert committed_units(output) == {units[0].unit_id}
    assert read_pages(output).num_rows == units[0].page_count
    for unit in units[1:]:
        commit_unit(output, unit, rows_of(unit), "r1")
    publish(output, "r1")
    check_exactly_once(output, CORPUS)


def test_first_marker_wins_and_only_its_file_is_left(output: Output, units: tuple[Unit, ...]) -> None:
    racers = 8
    start = Barrier(racers)

    def commit(racer: int) -> str:
        rows = rows_of(units[0], say=f"racer {racer}")
        start.wait()
        return commit_unit(output, units[0], rows, f"r{racer % 3}").file

    with ThreadPoolExecutor(racers) as pool:
        answers = set(pool.map(commit, range(racers)))
    assert len(answers) == 1
    assert data_files(output) == [join(output.uri, answers.pop())]
    assert len(set(read_pages(output).column("text").to_pylist())) == units[0].page_count


def test_the_same_rows_committed_twice_by_one_run_stay(output: Output, units: tuple[Unit, ...]) -> None:
    first = commit_unit(output, units[0], rows_of(units[0]), "r1")
    assert commit_unit(output, units[0], rows_of(units[0]), "r1") == first
    assert data_files(output) == [join(output.uri, first.file)]


def test_a_kill_between_data_file_and_marker_is_done_again_and_its_file_removed(
    output: Output, units: tuple[Unit, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(uri: str, data: bytes) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("rtprune.dataset.commit.create_if_absent", killed)
        with pytest.raises(KeyboardInterrupt):
            commit_unit(output, units[0], rows_of(units[0], "first try"), "r1")
    assert len(data_files(output)) == 1
    assert committed_units(output) == set()
    assert read_pages(output).num_rows == 0

    for unit in units:
        commit_unit(output, unit, rows_of(unit, "second try"), "r2")
    assert len(data_files(output)) == len(units) + 1
    assert publish(output, "r2").orphans == 1
    check_exactly_once(output, CORPUS)
    assert all(text.startswith("second try") for text in read_pages(output).column("text").to_pylist())


def test_publish_beside_a_worker_leaves_its_file_that_has_no_marker_yet(
    output: Output, units: tuple[Unit, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def publish_first(uri: str, data: bytes) -> bool:
        publish(output, "other")
        return create_if_absent(uri, data)

    monkeypatch.setattr("rtprune.dataset.commit.create_if_absent", publish_first)
    for unit in units:
        commit_unit(output, unit, rows_of(unit), "r1")
    publish(output, "r1")
    check_exactly_once(output, CORPUS)


def test_a_marker_whose_answer_was_lost_is_still_ours(
    output: Output, units: tuple[Unit, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store made the marker, the answer got lost, and the client's own second attempt is told that it exists."""

    def twice(uri: str, data: bytes) -> bool:
        put(uri, data)
        return False

    monkeypatch.setattr("rtprune.dataset.commit.create_if_absent", twice)
    file = commit_unit(output, units[0], rows_of(units[0]), "r1")
    assert data_files(output) == [join(output.uri, file.file)]
    assert read_pages(output).num_rows == units[0].page_count


def test_a_store_that_fails_at_the_marker_can_be_asked_again(
    output: Output, units: tuple[Unit, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(uri: str, data: bytes) -> bool:
        raise StoreError("the store did not answer")

    with monkeypatch.context() as patch:
        patch.setattr("rtprune.dataset.commit.create_if_absent", fail)
        with pytest.raises(StoreError):
            commit_unit(output, units[0], rows_of(units[0]), "r1")
    commit_unit(output, units[0], rows_of(units[0]), "r1")
    assert len(data_files(output)) == 1


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
    assert committed_units(output) == set()


def test_a_manifest_lists_what_became_visible_with_its_run(output: Output, units: tuple[Unit, ...]) -> None:
    def listed(run_id: str) -> list[str]:
        return [entry["unit_id"] for entry in json.loads(get(output.manifest_uri(run_id)))["files"]]

    commit_unit(output, units[0], rows_of(units[0]), "r1")
    assert publish(output, "r1").files == 1
    commit_unit(output, units[1], rows_of(units[1]), "r1")
    assert publish(output, "r1").files == 1
    for unit in units[2:]:
        commit_unit(output, unit, rows_of(unit), "r2")
    publish(output, "r2")
    assert listed("r1") == [units[0].unit_id, units[1].unit_id]
    assert sorted(listed("r2")) == sorted(unit.unit_id for unit in units[2:])
    assert set(committed_files(output)) == {unit.unit_id for unit in units}


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
        log = PlanLog(output)
        log.append([row for row in CORPUS if not log.covers(row.uri, row.version)], unit_pages=4, run_id=run_id)
        done = committed_units(output)
        missing = [unit for unit in log.units if unit.unit_id not in done]
        for unit in missing:
            commit_unit(output, unit, rows_of(unit), run_id)
        assert publish(output, run_id).changed == bool(missing)
        return len(missing)

    assert run("r1") > 0
    before = snapshot(Output.existing(output_uri))
    assert run("r2") == 0
    assert snapshot(Output.existing(output_uri)) == before


def test_a_marker_that_leads_outside_is_refused(output: Output, units: tuple[Unit, ...]) -> None:
    commit_unit(output, units[0], rows_of(units[0]), "r1")
    marker = output.marker_uri(units[0].unit_id)
    put(marker, json.dumps(json.loads(get(marker)) | {"file": "pages/../../secret.parquet"}).encode())
    with pytest.raises(RTPruneError, match="damaged"):
        read_pages(output)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff"])
def test_a_damaged_marker_is_named(output: Output, units: tuple[Unit, ...], content: bytes) -> None:
    put(output.marker_uri(units[0].unit_id), content)
    with pytest.raises(RTPruneError, match=units[0].unit_id):
        committed_files(output)


def test_the_row_of_a_run_is_replaced_when_it_ends_and_never_holds_a_password(output: Output) -> None:
    started = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
    row = RunRow("r1", started, None, "running", "s3://in", {"mode": "tiny", "password": "hunter2", "prune": 0.25})
    record_run(output, row)
    record_run(output, replace(row, ended_at=started, status="finished", pages=17, visual_tokens_before=100))
    (uri,) = find(join(output.uri, "runs"), ".parquet")
    data = get(uri)
    assert b"hunter2" not in data
    (read,) = pq.read_table(io.BytesIO(data)).to_pylist()
    assert json.loads(read["settings"]) == {"mode": "tiny", "prune": 0.25}
    assert (read["started_at"], read["ended_at"], read["status"]) == (started, started, "finished")
    assert (read["run_id"], read["pages"], read["visual_tokens_before"], read["source"]) == ("r1", 17, 100, "s3://in")
    assert (read["config_hash"], read["schema_version"]) == (output.config_hash, 1)


def test_the_row_of_a_run_that_was_killed_says_so_and_those_of_others_stay(output: Output) -> None:
    started = datetime(2026, 1, 2, tzinfo=UTC)
    for run_id, status in (("killed", "running"), ("ended", "finished"), ("alive", "running")):
        record_run(output, RunRow(run_id, started, None, status, "in", {}, pages=3))
    alive = join(output.uri, "_rtprune", "alive")
    for run_id in ("killed", "ended", "unheard-of", "alive"):
        put(join(alive, f"{run_id}.json"), b'{"beat": 7, "process": null}')
    times = [0.0]
    claims = Claims(output, "ours", lease_s=60, clock=lambda: times[-1])
    assert not claims.dead_runs()
    times.append(61.0)
    put(join(alive, "alive.json"), b'{"beat": 8, "process": null}')
    bury_dead_runs(output, claims)
    assert find(alive) == [join(alive, "alive.json")]
    rows = {uri: pq.read_table(io.BytesIO(get(uri))).to_pylist()[0] for uri in find(join(output.uri, "runs"))}
    assert {row["run_id"]: (row["status"], row["pages"]) for row in rows.values()} == {
        "killed": ("died", 3),
        "ended": ("finished", 3),
        "alive": ("running", 3),
    }


@pytest.mark.parametrize("output_uri", ["local", pytest.param("store", marks=pytest.mark.slow)], indirect=True)
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
        pages = [(row["doc_id"], row["page"]) for row in read_pages(output, ["doc_id", "page"]).to_pylist()]
        assert len(pages) == len(set(pages))
    for process in _start_together(output.uri, "end-a", "end-b"):
        process.communicate(timeout=120)
        assert process.returncode == 0
    publish(output, "last")
    check_exactly_once(output, DOCUMENTS)
    assert not publish(output, "again").changed


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
