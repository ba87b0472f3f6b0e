"""Where the Ray of a run comes from, and who can reach it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rtprune.cluster.session import live_nodes, ray_session


def test_local_ray_is_reachable_from_this_machine_only() -> None:
    code = (
        "from rtprune.cluster.session import start_local\n"
        "start_local(cpus=1)\n"
        "import ray\n"
        "print([node['NodeManagerAddress'] for node in ray.nodes()])\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "['127.0.0.1']"


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense", "ray://127.0.0.1:10001"])
def test_address_where_no_cluster_is_joined_is_wrong_use_told_at_once(address: str) -> None:
    code = f"from rtprune.cluster.session import ray_session\nwith ray_session({address!r}): pass\n"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "UsageError" in ended.stderr
    assert ended.returncode == 1


@pytest.mark.usefixtures("local_ray")
def test_ray_of_the_caller_is_used_and_left_running() -> None:
    import ray

    with ray_session(None):
        assert [node["CPU"] for node in live_nodes()] == [2.0]
    assert ray.is_initialized()
