"""What must hold of a dataset after any fault."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from rtprune.dataset import Output, verify_dataset
from tests.faults.conftest import Cluster
from tests.faults.driver import Ended
from tests.sources import assert_complete


def assert_sound(output: str) -> None:
    """Whatever is committed is committed once and as it was written."""
    verdict = verify_dataset(Output.existing(output))
    assert verdict.sound, verdict.errors


def assert_whole(output: str) -> Counter[str]:
    """Every page planned is in exactly one row, nothing lies about; returns how often each status occurs."""
    verdict = verify_dataset(Output.existing(output))
    assert verdict.sound, verdict.errors
    assert not verdict.harmless, verdict.harmless
    assert (verdict.unread_units, verdict.unread_pages) == (0, 0)
    statuses = assert_complete(output)
    assert verdict.pages == verdict.planned_pages == statuses.total()
    return statuses


def assert_rests(cluster: Cluster, source: Path, output: Path) -> None:
    """One more run finds nothing to do and writes nothing."""
    before = state(output)
    ended = cluster.run(str(source), str(output))
    assert ended.said.startswith("nothing to do"), ended.said + ended.complained
    assert state(output) == before


def assert_told(ended: Ended, code: int, message: str) -> None:
    """A command failed, and said why in one line at the end."""
    assert ended.code == code, ended
    *progress, last = ended.complained.splitlines()
    assert last.startswith("rtprune: error: ")
    assert message in last
    assert not [line for line in progress if "rror" in line], ended.complained


def files_in(folder: Path) -> int:
    """Number of files below ``folder``, while others write there."""
    return sum(len(files) for _, _, files in os.walk(folder))


def units_in(output: Path) -> int:
    """Number of units that are done, while others commit."""
    return len(list((output / "pages").glob("??/*.parquet")))


def run_rows(output: Path) -> list[dict[str, Any]]:
    """The rows of all runs, oldest first."""
    return [row for path in sorted((output / "runs").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def state(folder: Path) -> dict[str, int]:
    """Every file below ``folder`` with its modification time, ns."""
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
