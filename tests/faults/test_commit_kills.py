"""Kills at the very steps of a commit: a unit without its file, a file nobody heard of, a plan half made known."""

from __future__ import annotations

import signal
from collections import Counter
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rtprune.dataset.layout import unit_file
from rtprune.dataset.parquet import units_in
from tests.faults.conftest import Cluster
from tests.faults.proof import assert_rests, assert_sound, assert_whole, run_rows
from tests.faults.sabotage import (
    DyingAtUnits,
    Moment,
    dies_at,
    dies_at_a_unit_of_its_own,
    dies_publishing,
    reads_with,
)
from tests.sources import write_corpus, write_pdf

pytestmark = pytest.mark.slow

DOCUMENTS, PAGES = 4, 3
WHOLE = {"skipped": DOCUMENTS * PAGES}
MOMENTS: tuple[Moment, ...] = ("before", "after")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("source"), DOCUMENTS, PAGES)


def stayed(output: Path, witness: Path) -> bool:
    """Whether the unit's file is the one that was being committed when a process was killed."""
    data = witness.read_bytes()
    (unit_id,) = units_in(pq.read_schema(pa.BufferReader(data)))
    try:
        return (output / unit_file(unit_id)).read_bytes() == data
    except FileNotFoundError:
        return False


def test_workers_killed_around_their_commits_leave_one_file_for_each_unit(
    cluster: Cluster, source: Path, tmp_path: Path
) -> None:
    """The units are done again in the same run: by then their file is there, or it never was."""
    output = tmp_path / "out"
    command = (str(source), str(output), "--workers", "1", "--max-attempts", "3")
    ended = cluster.run(*command, before=partial(reads_with, DyingAtUnits))
    assert ended.code == 0, ended.complained
    assert [stayed(output, tmp_path / f"out.{moment}") for moment in MOMENTS] == [False, True]
    assert assert_whole(str(output)) == WHOLE


def test_a_driver_killed_around_a_commit_of_its_own_leaves_one_file_for_the_unit(
    cluster: Cluster, source: Path, tmp_path: Path
) -> None:
    """A unit that fails is read page by page, and then committed by the driver."""
    output = tmp_path / "out"
    command = (str(source), str(output), "--unit-pages", str(PAGES), "--workers", "1")
    for moment in MOMENTS:
        witness = tmp_path / moment
        ended = cluster.run(*command, before=partial(dies_at_a_unit_of_its_own, moment, witness=str(witness)))
        assert ended.code == -signal.SIGKILL, ended.complained
        assert "is read page by page" in ended.complained
        assert stayed(output, witness) == (moment == "after")
        assert_sound(str(output))
    ended = cluster.run(*command)
    assert ended.code == 0, ended.complained
    assert [stayed(output, tmp_path / moment) for moment in MOMENTS] == [False, True]
    assert assert_whole(str(output)) == WHOLE


def test_a_driver_killed_around_its_plan_and_its_rows_is_taken_up_where_it_was(
    cluster: Cluster, tmp_path: Path
) -> None:
    source, output = write_corpus(tmp_path / "source", DOCUMENTS, PAGES), tmp_path / "out"
    command = (str(source), str(output), "--workers", "1")
    for kill, function, name in (
        (dies_at, "rtprune.dataset.runs.put", "/runs/"),
        (dies_at, "rtprune.dataset.snapshot.create_if_absent", "/plans/"),  # after it, the documents' rows lack
        (dies_at, "rtprune.dataset.snapshot.put", "/documents/"),
        (dies_publishing, "rtprune.dataset.runs.put", "/runs/"),
    ):
        for moment in MOMENTS:
            witness = tmp_path / f"{moment}-{kill.__name__}-{name.strip('/')}"
            write_pdf(source / f"{witness.name}.pdf", 1, witness.name)
            ended = cluster.run(*command, before=partial(kill, function, name, moment, str(witness)))
            assert ended.code == -signal.SIGKILL, ended.complained
            assert witness.exists()
            assert_sound(str(output))
    ended = cluster.run(*command)
    assert ended.code == 0, ended.complained
    assert assert_whole(str(output)) == {"skipped": DOCUMENTS * PAGES + 8}
    statuses = Counter(row["status"] for row in run_rows(output))
    assert statuses == {"running": 6, "finished": 1}, "only the first left no row, only the last had ended"
    assert_rests(cluster, source, output)
