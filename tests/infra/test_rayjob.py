"""The RayJob has fields that KubeRay knows, gives units the time to end, and takes no more rights than it needs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from rtprune.corpus.worker import Worker
from tests.infra.described import documents, walk

#: Of the types that KubeRay declares (ray.io/v1), what is used here.
JOB = {"entrypoint", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit", "rayClusterSpec"}
CLUSTER = {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"}
HEAD = {"rayStartParams", "template"}
WORKERS = HEAD | {"groupName", "replicas", "minReplicas", "maxReplicas"}


@pytest.fixture
def job() -> dict[str, Any]:
    account, found = documents("rayjob.yaml")
    assert (account["apiVersion"], account["kind"]) == ("v1", "ServiceAccount")
    assert (found["apiVersion"], found["kind"]) == ("ray.io/v1", "RayJob")
    return dict(found)


@pytest.fixture
def pods(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    return {"head": cluster["headGroupSpec"]["template"]["spec"], "gpu": workers["template"]["spec"]}


def container(pod: dict[str, Any]) -> dict[str, Any]:
    (found,) = pod["containers"]
    return dict(found)


def test_fields_are_kuberays(job: dict[str, Any]) -> None:
    cluster = job["spec"]["rayClusterSpec"]
    assert job["spec"].keys() == JOB
    assert cluster.keys() == CLUSTER
    assert cluster["headGroupSpec"].keys() == HEAD
    for group in cluster["workerGroupSpecs"]:
        assert group.keys() == WORKERS
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def test_the_cluster_asks_for_a_token_and_goes_when_the_job_is_done(job: dict[str, Any]) -> None:
    assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    assert job["spec"]["ttlSecondsAfterFinished"] > 0


def test_as_many_workers_as_asked_for_are_there_before_the_run_counts_gpus(job: dict[str, Any]) -> None:
    for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        assert group["replicas"] == group["minReplicas"] == group["maxReplicas"] > 0


def test_workers_are_on_spot_with_a_gpu_each_and_the_head_is_not(pods: dict[str, dict[str, Any]]) -> None:
    assert pods["gpu"]["nodeSelector"] == {"karpenter.sh/capacity-type": "spot"}
    assert pods["head"]["nodeSelector"] == {"karpenter.sh/capacity-type": "on-demand"}
    assert "nvidia.com/gpu" in [toleration["key"] for toleration in pods["gpu"]["tolerations"]]
    assert container(pods["gpu"])["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert container(pods["gpu"])["image"].endswith("-gpu")
    assert "nvidia.com/gpu" not in container(pods["head"])["resources"]["limits"]


def test_pods_run_as_nobody_special_with_a_role_instead_of_keys(pods: dict[str, dict[str, Any]]) -> None:
    account = documents("rayjob.yaml")[0]
    assert account["metadata"]["annotations"]["eks.amazonaws.com/role-arn"].startswith("arn:aws:iam::")
    for pod in pods.values():
        assert pod["serviceAccountName"] == account["metadata"]["name"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container(pod)["securityContext"]["allowPrivilegeEscalation"] is False
        assert container(pod)["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert not {key for key, _ in walk(pod)} & {"hostNetwork", "hostPort", "hostPath", "privileged"}
        assert not [one for one in container(pod).get("env", []) if "AWS" in one["name"]]


def test_every_mount_has_its_volume_and_shared_memory_is_memory(pods: dict[str, dict[str, Any]]) -> None:
    for pod in pods.values():
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: mount["name"] for mount in container(pod)["volumeMounts"]}
        assert set(mounts.values()) == volumes.keys()
        assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"


def test_pods_stay_while_units_are_at_work(pods: dict[str, dict[str, Any]]) -> None:
    waited_for = {
        "head": b"/opt/rtprune/bin/python3.11\0/opt/rtprune/bin/rtprune\0run\0s3://documents/inbox",
        "gpu": f"ray::{Worker.__name__}.{Worker.work.__name__}".encode(),
    }
    others = [b"/opt/rtprune/bin/python3.11\0/opt/rtprune/bin/ray\0start", b"ray::IDLE", b"ray::Inspector.work"]
    for name, pod in pods.items():
        command = container(pod)["lifecycle"]["preStop"]["exec"]["command"]
        assert command[:2] == ["sh", "-c"]
        (pattern,) = re.findall(r"^while grep -qsa '([^']+)' /proc/\[0-9\]\*/cmdline; do sleep 1; done$", command[2])
        assert re.search(pattern.encode(), waited_for[name])
        for other in (*others, "\0".join(command).encode(), pattern.encode()):
            assert not re.search(pattern.encode(), other), "it would wait for itself, or for what never ends"
        assert pod["terminationGracePeriodSeconds"] > 120


def test_ray_waits_for_the_driver_as_long_as_the_pod_does(pods: dict[str, dict[str, Any]]) -> None:
    from ray.dashboard.modules.job import job_supervisor

    (patience,) = container(pods["head"])["env"]
    assert patience["name"] in Path(job_supervisor.__file__).read_text()
    assert int(patience["value"]) < pods["head"]["terminationGracePeriodSeconds"]
