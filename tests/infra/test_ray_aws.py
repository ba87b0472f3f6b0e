"""Ray's cluster launcher takes the file, and what it starts is not open to the world."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from tests.infra.described import documents


@pytest.fixture
def cluster() -> dict[str, Any]:
    (found,) = documents("ray-aws.yaml")
    return dict(found)


def test_the_launcher_takes_it(cluster: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(deepcopy(cluster))
    validate_config(prepared)
    assert prepared["available_node_types"]["gpu"]["min_workers"] == prepared["max_workers"]
    setup = [prepared[f"{kind}setup_commands"] for kind in ("", "head_", "worker_")]
    assert setup == [[], [], []], "the launcher's own default would install another Ray"


def test_no_port_is_open_to_the_world(cluster: dict[str, Any]) -> None:
    """Ray adds SSH from everywhere to a security group that it makes itself."""
    assert "security_group" not in cluster["provider"]
    assert cluster["provider"]["use_internal_ips"] is True
    assert cluster["auth"]["ssh_proxy_use_node_id"] is True
    for node in cluster["available_node_types"].values():
        assert node["node_config"]["SecurityGroupIds"]
        assert node["node_config"]["SubnetIds"]


def test_nodes_have_roles_and_no_keys(cluster: dict[str, Any]) -> None:
    profiles = {
        name: node["node_config"]["IamInstanceProfile"] for name, node in cluster["available_node_types"].items()
    }
    assert profiles["head"] != profiles["gpu"], "a worker needs no right to start instances"
    assert "AWS_SECRET_ACCESS_KEY" not in str(cluster)
    assert "ssh_private_key" not in cluster["auth"]


def test_only_workers_are_on_spot_and_only_they_work(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    assert types["gpu"]["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert "InstanceMarketOptions" not in types["head"]["node_config"]
    assert types["head"]["resources"] == {"CPU": 0}
    assert types["gpu"]["min_workers"] > 0, "a run takes the GPUs that are there when it begins"


def test_every_node_asks_for_the_token(cluster: dict[str, Any]) -> None:
    assert "--env RAY_AUTH_MODE=token" in cluster["docker"]["run_options"]
    assert "~/.ray/auth_token" in cluster["file_mounts"]
