"""``ray job submit`` against a real local head: the run joins the cluster it is in."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.corpus import assert_complete, quick_flags, write_corpus
from tests.processes import wait_until

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
BINARIES = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def takes_jobs(dashboard: str) -> bool:
    try:
        with urllib.request.urlopen(f"{dashboard}/api/jobs/", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture
def environment(store_endpoint: str, tmp_path: Path) -> dict[str, str]:
    """Of head and client: a home of their own, and this installation's commands."""
    own = {
        "HOME": str(tmp_path),
        "PATH": f"{BINARIES}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # keeps every port on loopback
    }
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | own


@pytest.fixture
def dashboard(environment: dict[str, str], tmp_path: Path) -> Iterator[str]:
    """Address to submit jobs to; the head runs for the length of the test."""
    port = free_port()
    said = tmp_path / "head.log"
    # its sockets' paths must be short
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as scratch, said.open("w") as log:
        head = subprocess.Popen(
            [
                str(BINARIES / "ray"), "start", "--head", "--block", "--num-cpus=2", f"--port={free_port()}",
                "--dashboard-host=127.0.0.1", f"--dashboard-port={port}",
                f"--dashboard-agent-listen-port={free_port()}", f"--temp-dir={scratch}",
                "--object-store-memory=200000000",
            ],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            address = f"http://127.0.0.1:{port}"
            wait_until(lambda: takes_jobs(address) or head.poll() is not None, "the head's dashboard")
            assert head.poll() is None, said.read_text()
            yield address
        finally:
            head.terminate()
            head.wait(30)


def test_submitted_job_reads_the_corpus_on_the_cluster(
    dashboard: str, environment: dict[str, str], bucket: str, tmp_path: Path, random_checkpoint: Path
) -> None:
    source = write_corpus(tmp_path / "source", documents=3, pages=2)
    entrypoint = ["rtprune", "run", str(source), f"{bucket}/out", *quick_flags(random_checkpoint, workers=1)]
    submit = [str(BINARIES / "ray"), "job", "submit", "--address", dashboard, "--working-dir", ".", "--", *entrypoint]
    ended = subprocess.run(submit, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=180)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "6 recorded" in ended.stdout
    assert sum(assert_complete(f"{bucket}/out").values()) == 6
