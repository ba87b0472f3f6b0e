"""Kills at the very steps of a commit: a file without its marker, a marker nobody heard of, a plan half made known."""

from __future__ import annotations

import json
import signal
from functools import partial
from pathlib import Path

import pytest

from tests.faults.conftest import Cluster
from tests.faults.proof import assert_rests, assert_sound, assert_whole
from tests.faults.sabotage import (
    DyingAtMarkers,
    Moment,
    dies_at,
    dies_at_a_marker_of_its_own,
    reads_with,
)
from tests.sources import write_corpus

pytestmark = pytest.mark.slow

DOCUMENTS, PAGES = 4, 3
WHOLE = {"skipped": DOCUMENTS * PAGES}
MOMENTS: tuple[Moment, ...] = ("before", "after")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("source"), DOCUMENTS, PAGES)


def to_be_marked(witness: Path) -> str:
    """The data file named by the marker at which a process was killed."""
    file: str = json.loads(witness.read_bytes())["file"]
    return file


def test_workers_killed_around_their_markers_leave_one_file_for_each_unit(
    cluster: Cluster, source: Path, tmp_path: Path
) -> None:
    """The units are done again in the same run: by then they are committed, or their first file is an orphan."""
    output = tmp_path / "out"
    command = (str(source), str(output), "--workers", "1", "--max-attempts", "3")
    ended = cluster.run(*command, before=partial(reads_with, DyingAtMarkers))
    assert ended.code == 0, ended.complained
    killed = [to_be_marked(tmp_path / f"out.{moment}") for moment in MOMENTS]
    assert [(output / file).exists() for file in killed] == [False, True]
    assert assert_whole(str(output)) == WHOLE


def test_a_driver_killed_around_a_marker_of_its_own_leaves_one_file_for_the_unit(
    cluster: Cluster, source: Path, tmp_path: Path
) -> None:
    """A unit that fails is read page by page, and then committed by the driver."""
    output = tmp_path / "out"
    command = (str(source), str(output), "--unit-pages", str(PAGES), "--workers", "1")
    for moment in MOMENTS:
        ended = cluster.run(
            *command, before=partial(dies_at_a_marker_of_its_own, moment, witness=str(tmp_path / moment))
        )
        assert ended.code == -signal.SIGKILL, ended.complained
        assert "is read page by page" in ended.complained
        assert (output / to_be_marked(tmp_path / moment)).exists()
        assert_sound(str(output))
    ended = cluster.run(*command)
    assert ended.code == 0, ended.complained
    assert [(output / to_be_marked(tmp_path / moment)).exists() for moment in MOMENTS] == [False, True]
    assert assert_whole(str(output)) == WHOLE


def test_a_driver_killed_around_its_plan_and_its_manifest_is_taken_up_where_it_was(
    cluster: Cluster, source: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    command = (str(source), str(output), "--workers", "1")
    for function, name in (
        ("rtprune.dataset.plan.create_if_absent", "/plans/"),  # after it, the documents' rows lack
        ("rtprune.dataset.commit.put", "/manifests/"),
    ):
        for moment in MOMENTS:
            witness = tmp_path / f"{moment}-{name.strip('/')}"
            ended = cluster.run(*command, before=partial(dies_at, function, name, moment, str(witness)))
            assert ended.code == -signal.SIGKILL, ended.complained
            assert witness.exists()
            assert_sound(str(output))
    ended = cluster.run(*command)
    assert ended.code == 0, ended.complained
    assert assert_whole(str(output)) == WHOLE
    assert_rests(cluster, source, output)
