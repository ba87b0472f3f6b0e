"""Where the Ray of a run comes from, and who can reach it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rtprune.corpus.ray_cluster import live_nodes, ray_session


def test_local_ray_is_reachable_from_this_machine_only() -> None:
    code = (
        "from rtprune.corpus.ray_cluster import start_local\n"
        "start_local(cpus=1)\n"
        "import ray\n"
        "print([node['NodeManagerAddress'] for node in ray.nodes()])\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "['127.0.0.1']"


def test_sigterm_to_all_of_the_group_reaches_the_driver_only() -> None:
    code = (
        "import os, signal\n"
        "from rtprune.corpus.ray_cluster import start_local\n"
        "from tests.processes import descendants\n"
        "start_local(cpus=1)\n"
        "for pid, command in descendants(os.getpid()).items():\n"
        "    status = open(f'/proc/{pid}/status').read()\n"
        "    blocked = int(status.split('SigBlk:')[1].split()[0], 16)\n"
        "    print(bool(blocked >> (signal.SIGTERM - 1) & 1), command.split()[0])\n"
        "print('driver', signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ()))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *processes, driver = ended.stdout.splitlines()
    assert any("raylet" in line for line in processes)
    assert all(line.startswith("True") for line in processes), processes
    assert driver == "driver False"


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
