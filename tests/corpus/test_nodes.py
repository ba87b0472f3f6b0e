"""Several Ray nodes, real ones on this machine: a run joins them, and survives losing one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rtprune.dataset import Output, done_units
from rtprune.errors import UsageError
from tests.processes import started, wait_until
from tests.sources import assert_complete, quick_flags, write_corpus

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without CPUs and two nodes with one each."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 100_000_000})
    nodes = [made.add_node(num_cpus=1, object_store_memory=100_000_000) for _ in range(2)]
    made.wait_for_nodes()
    made.workers = nodes
    yield made
    made.shutdown()


def committed(output: Path) -> set[str]:
    try:
        return done_units(Output.existing(str(output)))
    except UsageError:
        return set()


def test_run_goes_on_when_a_node_is_lost(cluster: Any, tmp_path: Path, random_checkpoint: Path) -> None:
    source = write_corpus(tmp_path / "source", documents=12, pages=10)
    flags = quick_flags(random_checkpoint, unit_pages=2, batch_pages=1)
    command = [sys.executable, "-m", "rtprune", "run", str(source), str(tmp_path / "out"), *flags]
    with started([*command, "--ray-address", cluster.address]) as process:
        wait_until(lambda: len(committed(tmp_path / "out")) >= 3, "the first units")
        cluster.remove_node(cluster.workers[0], allow_graceful=False)
        printed, warned = process.communicate(timeout=180)
    assert process.returncode == 0, warned
    assert "120 recorded" in printed
    assert "failed" not in assert_complete(str(tmp_path / "out"))
