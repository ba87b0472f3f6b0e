"""Drivers, workers and renderers killed at random moments: what is started again ends whole, and then rests."""

from __future__ import annotations

import os
import random
import time
from contextlib import suppress
from pathlib import Path

import pytest

from rtprune.dataset import Output, committed_units
from rtprune.errors import UsageError
from tests.corpus import write_corpus
from tests.faults.conftest import Cluster
from tests.faults.proof import assert_sound, assert_whole, state

pytestmark = pytest.mark.slow

DOCUMENTS, PAGES = 8, 3


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("source"), DOCUMENTS, PAGES)


def committed(output: Path) -> int:
    try:
        return len(committed_units(Output.existing(str(output))))
    except UsageError:
        return 0


def files_in(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


def assert_ends_whole(cluster: Cluster, source: Path, output: Path) -> None:
    """One more run finishes; the one after it has nothing to do and writes nothing."""
    ended = cluster.run(str(source), str(output))
    assert ended.code == 0, ended.complained
    assert assert_whole(str(output)) == {"skipped": DOCUMENTS * PAGES}
    assert_rests(cluster, source, output)


def assert_rests(cluster: Cluster, source: Path, output: Path) -> None:
    before = state(output)
    ended = cluster.run(str(source), str(output))
    assert ended.said.startswith("nothing to do"), ended.said + ended.complained
    assert state(output) == before


@pytest.mark.parametrize("seed", range(10))
def test_a_driver_killed_at_random_moments_is_taken_up_where_it_was(
    seed: int, cluster: Cluster, source: Path, tmp_path: Path
) -> None:
    """The moments are told by the files in OUTPUT: every one of them is a step of the run."""
    dice = random.Random(seed)
    output = tmp_path / "out"
    for _ in range(2):
        driver, met = cluster.start(str(source), str(output)), files_in(output)
        moment = met + dice.randint(0, 2 * DOCUMENTS * PAGES)
        while driver.alive and files_in(output) < moment:
            time.sleep(0.002)
        time.sleep(dice.random() * 0.05)
        with suppress(ProcessLookupError):
            driver.kill()
        driver.wait()
        if (output / "_rtprune" / "config.json").exists():
            assert_sound(str(output))
    assert_ends_whole(cluster, source, output)
