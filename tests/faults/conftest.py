"""One real Ray for all tests of faults, whose workers reach the store through a server that can be made to fail."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.faults.driver import Driver, Ended
from tests.faults.proxy import FaultyStore, no_fault
from tests.processes import descendants, wait_until

BINARIES = Path(sys.executable).parent
#: What the cluster and its drivers log in with; no test may find it anywhere.
CREDENTIALS = {"AWS_SECRET_ACCESS_KEY": "planted-secret-key-5b1e", "AWS_SESSION_TOKEN": "planted-session-token-c27d"}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@dataclass(frozen=True)
class Cluster:
    """A Ray head with two logical CPUs, and all that a driver needs to join it; its logs lie in ``scratch``."""

    address: str
    environment: dict[str, str]
    head: int
    folder: Path
    scratch: Path

    def start(self, *arguments: str, before: Callable[[], object] | None = None, **more: str) -> Driver:
        """An ``rtprune run`` without a model, of which anything may fail; ``more`` is environment."""
        flags = ["--model", "none", "--unit-pages", "1", "--max-failed", "100%", "--ray-address", self.address]
        return Driver(["run", *flags, *arguments], self.environment | more, self.folder, before)

    def run(self, *arguments: str, before: Callable[[], object] | None = None, **more: str) -> Ended:
        """The same, to its end."""
        return self.start(*arguments, before=before, **more).wait()

    def processes(self, kind: str) -> list[int]:
        """Live processes of the cluster whose command line has ``kind`` in it."""
        return [pid for pid, command in descendants(self.head).items() if kind in command]


@pytest.fixture(scope="session")
def faulty_store(store_endpoint: str) -> Iterator[FaultyStore]:
    """The store of ``bucket`` as the cluster and its drivers reach it."""
    server = FaultyStore(store_endpoint)
    yield server
    server.close()


@pytest.fixture
def store(faulty_store: FaultyStore) -> Iterator[FaultyStore]:
    """The same, well before and after the test."""
    faulty_store.befallen.clear()
    yield faulty_store
    faulty_store.decide = no_fault


@pytest.fixture(scope="session")
def cluster(faulty_store: FaultyStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A head that runs for the length of the session, in a home of its own, on loopback."""
    folder = tmp_path_factory.mktemp("cluster")
    own = {
        "HOME": str(folder),
        "PATH": f"{BINARIES}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "AWS_ENDPOINT_URL": faulty_store.endpoint,
        **CREDENTIALS,
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # keeps every port on loopback
    }
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | own
    port = free_port()
    # its sockets' paths must be short
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as scratch, (folder / "head.log").open("w") as log:
        command = [
            str(BINARIES / "ray"), "start", "--head", "--block", "--num-cpus=2", "--node-ip-address=127.0.0.1",
            f"--port={port}", f"--ray-client-server-port={free_port()}", "--include-dashboard=false",
            f"--dashboard-agent-listen-port={free_port()}", f"--temp-dir={scratch}", "--object-store-memory=100000000",
            "--no-monitor", "--include-log-monitor=false",
        ]  # fmt: skip
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            said = folder / "head.log"
            wait_until(lambda: "Ray runtime started" in said.read_text() or head.poll() is not None, "the head")
            assert head.poll() is None, said.read_text()
            yield Cluster(f"127.0.0.1:{port}", environment, head.pid, folder, Path(scratch))
        finally:
            head.terminate()
            head.wait(30)
