"""One small local Ray for the whole test session, kept away from the developer's own clusters."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A running Ray with 2 logical CPUs; what is started through the package joins it."""
    import ray

    from rtprune.cluster.session import start_local

    start_local(cpus=2)
    yield
    ray.shutdown()


@pytest.fixture(autouse=True, scope="session")
def one_thread_per_worker() -> None:
    """Tests share the machine."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
