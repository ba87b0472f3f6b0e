"""One small local Ray for the whole test session."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def local_ray(store_endpoint: str) -> Iterator[None]:
    """A running Ray with 2 logical CPUs whose workers know the store; runs in this process use it."""
    import ray

    from rtprune.corpus.ray_cluster import start_local

    os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests share the machine
    start_local(cpus=2)
    yield
    ray.shutdown()
