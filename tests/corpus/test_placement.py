"""How many workers a cluster gets, from what its nodes have."""

from __future__ import annotations

import pytest

from rtprune.corpus.ray_cluster import Placement, place_inspectors, place_workers


@pytest.mark.parametrize(
    ("nodes", "workers", "expected"),
    [
        ([{"CPU": 16.0, "GPU": 2.0}], None, Placement(2, 8.0, 1.0, 7)),
        ([{"CPU": 8.0}, {"CPU": 8.0, "GPU": 4.0}], None, Placement(4, 2.0, 1.0, 1)),
        ([{"CPU": 64.0, "GPU": 1.0}, {"CPU": 4.0, "GPU": 1.0}], None, Placement(2, 4.0, 1.0, 3)),
        ([{"CPU": 64.0, "GPU": 1.0}], None, Placement(1, 9.0, 1.0, 8)),
        ([{"CPU": 4.0, "GPU": 4.0}], None, Placement(4, 1.0, 1.0, 1)),
        ([{"CPU": 8.0, "GPU": 4.0}], 2, Placement(2, 2.0, 1.0, 1)),
        ([{"CPU": 8.0, "GPU": 1.0}], 2, Placement(2, 4.0, 0.5, 3)),
        ([{"CPU": 8.0, "GPU": 2.0}], 3, Placement(3, 2.0, 0.5, 1)),  # a GPU carries one share of 2/3, two of a half
        ([{"CPU": 8.0}], None, Placement(4, 2.0)),
        ([{"CPU": 2.0}], None, Placement(1, 2.0)),
        ([{"CPU": 1.0}, {"CPU": 1.0}], None, Placement(2, 1.0)),
        ([{"CPU": 0.0}, {"CPU": 4.0}], None, Placement(2, 2.0)),
        ([{"CPU": 2.0}], 2, Placement(2, 1.0)),
        ([{"CPU": 2.0}], 4, Placement(4, 0.5)),
        ([{"CPU": 16.0}], 2, Placement(2, 2.0)),
    ],
)
def test_one_worker_per_gpu_or_per_two_cores(
    nodes: list[dict[str, float]], workers: int | None, expected: Placement
) -> None:
    assert place_workers(nodes, workers) == expected


def test_on_cpus_no_more_workers_than_memory_holds_models() -> None:
    nodes = [{"CPU": 8.0, "memory": 64e9}, {"CPU": 8.0, "memory": 20e9}]
    assert place_workers(nodes, parameters=3_300_000_000) == Placement(5, 2.0)  # 4 by cores, 1 by memory
    assert place_workers(nodes[1:], parameters=30_000_000_000) == Placement(1, 2.0)
    assert place_workers(nodes, 8, parameters=3_300_000_000) == Placement(8, 2.0)  # whoever asks gets them


def test_without_a_model_every_core_is_a_worker() -> None:
    nodes = [{"CPU": 4.0}, {"CPU": 4.0, "GPU": 1.0}]
    assert place_workers(nodes, reading=False) == Placement(8, 1.0)
    assert place_workers(nodes, 2, reading=False) == Placement(2, 1.0)
    assert place_workers(nodes, 16, reading=False) == Placement(16, 0.5)


def test_every_reader_fits_on_some_node() -> None:
    nodes = [{"CPU": 3.0}, {"CPU": 5.0}]
    placement = place_workers(nodes)
    assert placement.workers == sum(node["CPU"] // placement.cpus for node in nodes)


def test_a_worker_without_a_whole_core_still_computes_with_a_thread() -> None:
    assert Placement(4, 0.5).threads == 1


def test_no_more_inspectors_than_batches() -> None:
    assert place_inspectors([{"CPU": 64.0}], 3) == Placement(3, 1.0)
    assert place_inspectors([{"CPU": 2.0}], 100) == Placement(2, 1.0)
