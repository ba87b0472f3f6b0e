"""A worker that falls silent without dying, as one does whose device or disk hangs."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.faults.conftest import Cluster
from tests.faults.proof import assert_whole, units_in
from tests.processes import descendants, wait_until
from tests.sources import write_corpus

pytestmark = pytest.mark.slow

DOCUMENTS, PAGES = 10, 5


def test_a_silent_worker_is_replaced_in_time_and_nothing_of_it_remains(cluster: Cluster, tmp_path: Path) -> None:
    source, output = write_corpus(tmp_path / "source", DOCUMENTS, PAGES), tmp_path / "out"
    others = set(cluster.processes("ray::Worker"))
    driver = cluster.start(str(source), str(output), "--workers", "1", "--unit-timeout-s", "4", "--max-attempts", "4")
    while driver.alive and units_in(output) < 5:
        time.sleep(0.002)
    (worker,) = set(cluster.processes("ray::Worker")) - others
    silent = [worker, *descendants(worker)]
    try:
        os.kill(worker, signal.SIGSTOP)
        ended = driver.wait()
        assert ended.code == 0, ended.complained
        wait_until(lambda: not any(map(exists, silent)), "the silent worker and its renderer to end", 30)
    finally:
        for pid in silent:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert assert_whole(str(output)) == {"skipped": DOCUMENTS * PAGES}


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
