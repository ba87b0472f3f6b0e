"""Runs begun in the same second, and clocks that jump: nothing is decided by the time of day."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from rtprune.corpus.run import LEAST_IN_FLIGHT
from tests.faults.conftest import Cluster
from tests.faults.proof import assert_rests, assert_whole
from tests.faults.sabotage import Counting, clock_jumps, reads_with
from tests.sources import write_corpus

pytestmark = pytest.mark.slow

DOCUMENTS, PAGES = 30, 2


def told(said: str, what: str) -> int:
    found = re.search(rf"^{what} +(\d+) ", said, re.MULTILINE)
    assert found, said
    return int(found[1])


def read_on_a_jumping_clock() -> None:
    reads_with(Counting)
    clock_jumps()


def read_counted() -> None:
    reads_with(Counting)


def test_two_processes_begun_together_record_nothing_twice_though_the_clock_of_one_jumps(
    cluster: Cluster, tmp_path: Path
) -> None:
    source, output = write_corpus(tmp_path / "source", DOCUMENTS, PAGES), tmp_path / "out"
    command = (str(source), str(output), "--workers", "1", "--batch-pages", "1", "--unit-pages", str(PAGES))
    both = [cluster.start(*command, before=before) for before in (read_on_a_jumping_clock, read_counted)]
    ends = [driver.wait() for driver in both]
    assert [ended.code for ended in ends] == [0, 0], ends
    assert sum(told(ended.said, "pages") for ended in ends) == DOCUMENTS * PAGES
    assert all(re.match(r"finished in (\d+ min )?\d+ s\n", ended.said) for ended in ends), ends
    assert assert_whole(str(output)) == {"skipped": DOCUMENTS * PAGES}
    read = Counter(line.split()[0] for line in Path(f"{output}.read").read_text().splitlines())
    assert len(read) == DOCUMENTS
    # two runs meet where the part of one begins in that of the other, and again at what is left in the end
    assert read.total() - DOCUMENTS <= 2 * (2 * LEAST_IN_FLIGHT), "read by both: what was in flight where they met"
    assert_rests(cluster, source, output)
