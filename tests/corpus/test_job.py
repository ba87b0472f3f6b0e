"""``ray job submit`` and ``stop`` against a real local head: the run joins the cluster it is in."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rtprune.dataset import Output, done_units, verify_dataset
from tests.processes import wait_until
from tests.sources import assert_complete, quick_flags, write_corpus

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


@pytest.fixture(scope="module")
def environment(store_endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of head and client: a home of their own, and this installation's commands."""
    own = {
        "HOME": str(tmp_path_factory.mktemp("home")),
        "PATH": f"{BINARIES}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # keeps every port on loopback
    }
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | own


@pytest.fixture(scope="module")
def dashboard(environment: dict[str, str]) -> Iterator[str]:
    """Address to submit jobs to."""
    port = free_port()
    said = Path(environment["HOME"]) / "head.log"
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


def submit(dashboard: str, environment: dict[str, str], *entrypoint: str, options: Sequence[str] = ()) -> str:
    """What the client prints of a job that runs ``rtprune run``."""
    client = [str(BINARIES / "ray"), "job", "submit", "--address", dashboard, "--working-dir", "."]
    command = [*client, *options, "--", "rtprune", "run", *entrypoint]
    ended = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=180)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_submitted_job_reads_the_corpus_on_the_cluster(
    dashboard: str, environment: dict[str, str], bucket: str, tmp_path: Path, random_checkpoint: Path
) -> None:
    source = write_corpus(tmp_path / "source", documents=3, pages=2)
    flags = quick_flags(random_checkpoint, workers=1)
    assert "6 recorded" in submit(dashboard, environment, str(source), f"{bucket}/out", *flags)
    assert sum(assert_complete(f"{bucket}/out").values()) == 6


def test_stopped_job_finishes_the_units_at_work_and_says_how_to_go_on(
    dashboard: str, environment: dict[str, str], tmp_path: Path
) -> None:
    source, out = write_corpus(tmp_path / "source", documents=1, pages=600), tmp_path / "out"
    run = [str(source), str(out), "--model", "none", "--unit-pages", "1", "--workers", "1"]
    patience = json.dumps({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "120"}})
    options = ["--no-wait", "--submission-id", "a-job", "--runtime-env-json", patience]
    submit(dashboard, environment, *run, options=options)
    wait_until(lambda: len(list(out.glob("pages/*/*.parquet"))) >= 3, "the first units")
    client = [str(BINARIES / "ray"), "job"]
    for command in ("stop", "logs"):
        asked = [*client, command, "--address", dashboard, "a-job"]
        said = subprocess.run(asked, env=environment, capture_output=True, text=True, timeout=180)
        assert said.returncode == 0, said.stderr
    assert "units at work are finished first" in said.stdout
    assert "the same command goes on from here" in said.stdout
    dataset = Output.existing(str(out))
    units = len(done_units(dataset))
    assert 3 <= units < 600
    assert verify_dataset(dataset).sound
    (row,) = pq.read_table(out / "runs").to_pylist()
    assert (row["status"], row["units"]) == ("stopped", units)
