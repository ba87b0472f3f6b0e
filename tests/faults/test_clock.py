"""Runs begun in the same second, and clocks that jump: nothing is decided by the time of day."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rtprune.store import find
from tests.faults.conftest import Cluster
from tests.faults.proof import assert_rests, assert_whole
from tests.faults.sabotage import clock_jumps
from tests.sources import write_corpus

pytestmark = pytest.mark.slow

DOCUMENTS, PAGES = 10, 4


def told(said: str, what: str) -> int:
    found = re.search(rf"^{what} +(\d+) ", said, re.MULTILINE)
    assert found, said
    return int(found[1])


def test_two_processes_begun_together_do_nothing_twice_though_the_clock_of_one_jumps(
    cluster: Cluster, tmp_path: Path
) -> None:
    source, output = write_corpus(tmp_path / "source", DOCUMENTS, PAGES), tmp_path / "out"
    command = (str(source), str(output), "--workers", "1")
    both = [cluster.start(*command, before=before) for before in (clock_jumps, None)]
    ends = [driver.wait() for driver in both]
    assert [ended.code for ended in ends] == [0, 0], ends
    assert sum(told(ended.said, "documents") for ended in ends) == DOCUMENTS
    assert sum(told(ended.said, "pages") for ended in ends) == DOCUMENTS * PAGES
    assert all(re.match(r"finished in (\d+ min )?\d+ s\n", ended.said) for ended in ends), ends
    assert assert_whole(str(output)) == {"skipped": DOCUMENTS * PAGES}
    for left in ("claims", "alive"):
        assert not find(str(output / "_rtprune" / left))
    assert_rests(cluster, source, output)
