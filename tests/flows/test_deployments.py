"""The deployments of prefect.yaml: well formed, and run by a real server and worker."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from flows.compact_dataset import compact_dataset
from flows.ocr_corpus import ocr_corpus
from tests.corpus import assert_complete, quick_settings, write_corpus
from tests.processes import wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
PREFECT = [sys.executable, "-m", "prefect"]


def test_every_deployment_names_a_flow_and_parameters_that_it_has() -> None:
    described = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())
    deployments = {each["name"]: each for each in described["deployments"]}
    flows = {"manual": ocr_corpus, "nightly": ocr_corpus, "compaction": compact_dataset}
    assert deployments.keys() == flows.keys()
    for name, flow in flows.items():
        file, _, function = deployments[name]["entrypoint"].partition(":")
        assert (REPOSITORY / file).is_file()
        assert (Path(file).stem, function) == (flow.fn.__module__.removeprefix("flows."), flow.fn.__name__)
        assert set(deployments[name].get("parameters", {})) <= set(flow.parameters.properties)
    for name, cron in (("nightly", "0 2 * * *"), ("compaction", "0 12 * * 0")):
        (schedule,) = deployments[name]["schedules"]
        assert (schedule["cron"], schedule["active"]) == (cron, False)
        assert set(flows[name].parameters.required) <= set(deployments[name]["parameters"])


def answers(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def running(command: list[str], environment: dict[str, str], log: Path) -> Iterator[None]:
    """A process in the background, ended and waited for."""
    with log.open("w") as sink:
        process = subprocess.Popen([*PREFECT, *command], env=environment, stdout=sink, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            process.terminate()
            process.wait(60)


@pytest.mark.slow
def test_deployed_flow_is_run_by_a_worker(tmp_path: Path, random_checkpoint: Path) -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    environment = os.environ | {
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLI_COLORS": "false",
        "PYTHONPATH": str(REPOSITORY),
    }
    project = tmp_path / "project"  # deploying leaves files behind
    project.mkdir()
    for name in ("flows", "tasks"):
        shutil.copytree(REPOSITORY / name, project / name)
    shutil.copy(REPOSITORY / "prefect.yaml", project)

    def prefect(*command: str) -> None:
        ended = subprocess.run(
            [*PREFECT, "--no-prompt", *command], env=environment, cwd=project, capture_output=True, text=True
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr

    source = write_corpus(tmp_path / "source", documents=2, pages=2)
    settings = quick_settings(random_checkpoint, workers=1).model_dump(exclude_unset=True, exclude={"batch_pages"})
    given = {"source": str(source), "output": str(tmp_path / "out"), **settings}
    with running(
        ["server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"], environment, tmp_path / "s"
    ):
        wait_until(lambda: answers(port), "the server")
        prefect("work-pool", "create", "rtprune", "--type", "process")
        prefect("deploy", "--all")
        with running(["worker", "start", "--pool", "rtprune"], environment, tmp_path / "w"):
            parameters = [part for name, value in given.items() for part in ("--param", f"{name}={value}")]
            prefect("deployment", "run", "ocr-corpus/manual", *parameters, "--watch")
            output = ("--param", f"output={tmp_path / 'out'}")
            prefect("deployment", "run", "compact-dataset/compaction", *output, "--watch")
    assert sum(assert_complete(str(tmp_path / "out")).values()) == 4
    assert len(list((tmp_path / "out" / "pages").rglob("*.parquet"))) == 1
