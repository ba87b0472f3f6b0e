"""The driver's bench plays every unit through the real queue, loop and pool."""

from __future__ import annotations

from rtprune.bench.driver import bench_driver, report


def test_every_unit_is_read_and_the_rate_told() -> None:
    measured = bench_driver(workers=20, units=300)
    assert (measured["workers"], measured["units"]) == (20, 300)
    assert measured["units_per_s"] > 0
    assert report(measured).startswith("20 simulated workers, 300 units: ")
