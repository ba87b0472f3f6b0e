"""Drivers, workers and renderers killed at random moments: what is started again ends whole, and then rests."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import pytest

from tests.faults.conftest import Cluster
from tests.faults.driver import Driver
from tests.faults.proof import assert_rests, assert_sound, assert_whole, files_in, run_rows, units_in
from tests.processes import descendants, wait_until
from tests.sources import glob_pages, write_corpus

pytestmark = pytest.mark.slow

DOCUMENTS, PAGES = 30, 8  # more than can be read between so many kills
MOST_FILES = 6  # written between two kills
LOOK_EVERY_S = 0.2
IN_FLIGHT = 3  # units that a worker has at a time, with so few pages in a batch

Victim = Literal["driver", "worker", "renderer"]
VICTIMS: tuple[Victim, ...] = (*["driver"] * 3, *["worker"] * 2, *["renderer"] * 5)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("source"), DOCUMENTS, PAGES)


class Trials:
    """Kills among the processes of runs on one OUTPUT: a run goes on until it is its driver that is killed."""

    def __init__(self, cluster: Cluster, source: Path, output: Path, dice: random.Random) -> None:
        self._cluster = cluster
        more = ("--batch-pages", "1", "--max-attempts", str(VICTIMS.count("worker") + 1))
        self._command = (str(source), str(output), "--workers", "1", *more)
        self._output = output
        self._dice = dice
        self._driver: Driver | None = None
        self._gone: set[int] = set()  # killed, and workers of drivers that were: some may not know it yet
        self._renderers_spared = 0

    def kill(self, victim: Victim) -> None:
        """One kill, after some more files: every file in OUTPUT is a step of the run."""
        driver = self._running()
        find = {"driver": lambda: driver.pid, "worker": self._worker, "renderer": self._renderer}[victim]
        pid = self._until(find, 0.1)
        moment = files_in(self._output) + self._dice.randint(0, MOST_FILES)
        self._until(lambda: files_in(self._output) >= moment, 0.002)
        time.sleep(self._dice.random() * 0.02)
        with suppress(ProcessLookupError):  # a renderer whose pages nobody wants is ended by its worker
            os.kill(pid, signal.SIGKILL)
        self._gone.add(pid)
        if victim == "driver":
            assert driver.wait().code == -signal.SIGKILL
            self._driver = None
        if victim == "renderer":  # the second death of a page's renderer costs the page: let this one's be rendered
            self._renderers_spared = units_in(self._output) + IN_FLIGHT + 1

    def end(self) -> None:
        """The run that is at work, or one more, completes."""
        ended = self._running().wait()
        assert ended.code == 0, ended.complained

    def _running(self) -> Driver:
        if self._driver is None:
            self._gone.update(self._cluster.processes("ray::Worker"))
            self._driver = self._cluster.start(*self._command)
        return self._driver

    def _until(self, found: Callable[[], int | None], every_s: float) -> int:
        while True:
            assert self._running().alive, f"nothing left to kill at: {self._running().wait()}"
            if result := found():
                return result
            time.sleep(every_s)

    def _worker(self) -> int | None:
        """One that has begun to work: its pages are being rendered."""
        workers = set(self._cluster.processes("ray::Worker")) - self._gone
        return next((pid for pid in workers if descendants(pid)), None)

    def _renderer(self) -> int | None:
        if units_in(self._output) < self._renderers_spared or (worker := self._worker()) is None:
            return None
        return next(iter(descendants(worker).keys() - self._gone), None)


class Reader(threading.Thread):
    """Looks at OUTPUT as anybody does who knows nothing of this package, again and again while a block lasts.

    Attributes:
        looks: how often it saw more pages than before.
    """

    def __init__(self, output: Path) -> None:
        super().__init__(daemon=True)
        self._output = output
        self._ended = threading.Event()
        self._error: Exception | None = None
        self.looks = 0

    def __enter__(self) -> Reader:
        self.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._ended.set()
        self.join()
        if self._error is not None:
            raise self._error

    def run(self) -> None:
        before: Counter[tuple[str, int]] = Counter()
        try:
            while not self._ended.wait(LOOK_EVERY_S):
                seen = glob_pages(str(self._output))
                assert set(seen.values()) <= {1}, "a page twice"
                assert seen.keys() >= before.keys(), "a page no more"
                self.looks += len(seen) > len(before)
                before = seen
        except Exception as error:
            self._error = error


@pytest.mark.parametrize("seed", range(2))
def test_whatever_is_killed_at_random_moments_no_page_is_lost_or_doubled_or_ever_seen_twice(
    seed: int, cluster: Cluster, source: Path, tmp_path: Path
) -> None:
    dice = random.Random(seed)
    output = tmp_path / "out"
    trials = Trials(cluster, source, output, dice)
    with Reader(output) as reader:
        for victim in dice.sample(VICTIMS, len(VICTIMS)):
            trials.kill(victim)
            if (output / "_rtprune" / "config.json").exists():
                assert_sound(str(output))
        trials.end()
    assert reader.looks > len(VICTIMS)
    assert assert_whole(str(output)) == {"skipped": DOCUMENTS * PAGES}
    assert_rests(cluster, source, output)


def test_a_run_reads_what_another_leaves_that_dies_beside_it(cluster: Cluster, source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    dying, other = (cluster.start(str(source), str(output), "--workers", "1") for _ in range(2))
    wait_until(lambda: len(run_rows(output)) == 2 and units_in(output) > 0, "both at work")
    dying.kill()
    assert dying.wait().code == -signal.SIGKILL
    ended = other.wait()
    assert ended.code == 0, ended.complained
    assert assert_whole(str(output)) == {"skipped": DOCUMENTS * PAGES}
    seen = {row["status"]: row["last_seen_at"] for row in run_rows(output)}
    assert seen.keys() == {"running", "finished"}
    assert seen["running"] < seen["finished"]
    assert_rests(cluster, source, output)
