"""A Prefect server for flows that are called in the test's own process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prefect.testing.utilities import prefect_test_harness


@pytest.fixture(scope="module")
def prefect_server() -> Iterator[None]:
    """A throw-away Prefect server and database."""
    with prefect_test_harness(server_startup_timeout=120):
        yield
