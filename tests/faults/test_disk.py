"""Disks that are full: one line says so, what is committed stays, and with room the next run goes on."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from rtprune.store import join, put
from tests.faults.conftest import Cluster
from tests.faults.proof import assert_rests, assert_sound, assert_told, assert_whole, units_in
from tests.faults.sabotage import WithoutRoomForUnits, no_room_for, reads_with, when_publishing
from tests.sources import write_corpus

pytestmark = pytest.mark.slow

DOCUMENTS, PAGES = 6, 5
WHOLE = {"skipped": DOCUMENTS * PAGES}
FULL = "No space left on device (check the disk it lies on)"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("source"), DOCUMENTS, PAGES)


class Disk:
    """A disk in memory, which lies at ``path`` for every process of this user.

    It is mounted in a namespace of its own, which needs no rights; ``/proc`` leads into it from outside.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shell = subprocess.Popen(
            ["unshare", "--user", "--map-root-user", "--mount", "sh"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.path = Path(f"/proc/{self._shell.pid}/root{folder}")
        self.mounted = self._done(f"mount -t tmpfs -o size=192k rtprune '{folder}'")

    def grow(self) -> None:
        """Make room."""
        assert self._done(f"mount -o remount,size=64m '{self._folder}'")

    def close(self) -> None:
        """It is gone with all that lies on it."""
        self._shell.kill()
        self._shell.communicate()

    def _done(self, command: str) -> bool:
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        try:
            self._shell.stdin.write(f"{command} && echo done || echo failed\n")
            self._shell.stdin.flush()
        except BrokenPipeError:
            return False
        return self._shell.stdout.readline() == "done\n"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """192 KiB."""
    (tmp_path / "disk").mkdir()
    try:
        made = Disk(tmp_path / "disk")
    except FileNotFoundError:
        pytest.skip("there is no unshare(1) here")
    try:
        if not made.mounted:
            pytest.skip("user namespaces are not allowed here")
        yield made
    finally:
        made.close()


def test_a_disk_that_fills_up_ends_the_run_and_nothing_committed_is_lost(
    cluster: Cluster, disk: Disk, source: Path
) -> None:
    output = disk.path / "out"
    assert_told(cluster.run(str(source), str(output), "--workers", "1"), 1, FULL)
    assert 0 < units_in(output) < DOCUMENTS * PAGES
    assert_sound(str(output))
    disk.grow()
    ended = cluster.run(str(source), str(output), "--workers", "1")
    assert ended.code == 0, ended.complained
    assert assert_whole(str(output)) == WHOLE
    assert_rests(cluster, source, output)


def test_whatever_there_is_no_room_for_the_next_run_does_it(cluster: Cluster, source: Path, tmp_path: Path) -> None:
    """Run after run comes one step further."""
    output = tmp_path / "out"
    driver = ("/_rtprune/.config", "/runs/", "/plans/", "/documents/")
    steps: list[Callable[[], None]] = [partial(no_room_for, name) for name in driver]
    steps += [partial(reads_with, WithoutRoomForUnits), partial(when_publishing, partial(no_room_for, "/runs/"))]
    for step in steps:
        assert_told(cluster.run(str(source), str(output), "--workers", "1", before=step), 1, FULL)
        if step is not steps[0]:
            assert_sound(str(output))
    ended = cluster.run(str(source), str(output))
    assert ended.code == 0, ended.complained
    assert assert_whole(str(output)) == WHOLE
    assert_rests(cluster, source, output)


def test_a_model_that_finds_no_room_is_told_in_one_line_and_leaves_nothing(
    cluster: Cluster, bucket: str, disk: Disk, source: Path, tmp_path: Path
) -> None:
    put(join(bucket, "model", "config.json"), b"{}" + b" " * 2**20)
    scratch = disk.path / "cache"
    ended = cluster.run(
        str(source), str(tmp_path / "out"), "--model", join(bucket, "model"), XDG_CACHE_HOME=str(scratch)
    )
    assert_told(ended, 1, FULL)
    assert not [path for path in scratch.rglob("*") if path.is_file()]
