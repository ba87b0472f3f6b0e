"""One Prefect server for all tests of flows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[str]:
    """A throw-away Prefect server and database; the URL of its API."""
    from prefect.settings import PREFECT_API_URL  # here, because every worker of the suite reads this file
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        url = PREFECT_API_URL.value()
        assert url
        yield url
