"""Where the Ray of a run comes from, and who can reach it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from rtprune.corpus.ray_cluster import live_nodes, ray_session

#: Starts Ray, and prints what the tests below ask of it.
STARTED = """
import json, os, signal
from rtprune.corpus.ray_cluster import start_local
from tests.processes import descendants

start_local(cpus=1)
import ray

blocks = {}
for pid, command in descendants(os.getpid()).items():
    status = open(f"/proc/{pid}/status").read()
    blocks[command] = bool(int(status.split("SigBlk:")[1].split()[0], 16) >> (signal.SIGTERM - 1) & 1)
driver = signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ())
addresses = [node["NodeManagerAddress"] for node in ray.nodes()]
print(json.dumps({"addresses": addresses, "blocks": blocks, "driver blocks": driver}))
"""


@pytest.fixture(scope="module")
def started() -> dict[str, Any]:
    ended = subprocess.run([sys.executable, "-c", STARTED], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_local_ray_is_reachable_from_this_machine_only(started: dict[str, Any]) -> None:
    assert started["addresses"] == ["127.0.0.1"]


@pytest.mark.slow
def test_sigterm_to_all_of_the_group_reaches_the_driver_only(started: dict[str, Any]) -> None:
    assert any("raylet" in command for command in started["blocks"])
    assert all(started["blocks"].values()), started["blocks"]
    assert not started["driver blocks"]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense", "ray://127.0.0.1:10001"])
def test_address_where_no_cluster_is_joined_is_wrong_use_told_at_once(address: str) -> None:
    code = f"from rtprune.corpus.ray_cluster import ray_session\nwith ray_session({address!r}): pass\n"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "UsageError" in ended.stderr
    assert ended.returncode == 1


@pytest.mark.usefixtures("local_ray")
def test_ray_of_the_caller_is_used_and_left_running() -> None:
    import ray

    with ray_session(None):
        assert [node["CPU"] for node in live_nodes()] == [2.0]
    assert ray.is_initialized()
