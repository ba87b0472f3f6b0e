"""The deployments of prefect.yaml: well formed, and run by a real server and worker."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.workers.process import ProcessWorker

from flows.compact_dataset import compact_dataset
from flows.ocr_corpus import ocr_corpus
from rtprune.dataset import Output, done_units, verify_dataset
from tests.processes import descendants, wait_until
from tests.sources import assert_complete, quick_settings, write_corpus

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


@contextmanager
def running(command: list[str], environment: dict[str, str], log: Path) -> Iterator[None]:
    """A process in the background, killed with all below it: asked to end, a Prefect worker takes its time."""
    with log.open("w") as sink:
        process = subprocess.Popen([*PREFECT, *command], env=environment, stdout=sink, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            for pid in [process.pid, *descendants(process.pid)]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


@dataclass(frozen=True)
class Deployed:
    """Deployments on a server, with a worker that takes their runs."""

    api: str

    def ask(self, path: str, given: object = None) -> Any:
        """What the server answers; a POST where something is ``given``.

        Asked again where the server says it is busy, as Prefect's own client does: its SQLite was locked.
        """
        data = None if given is None else json.dumps(given).encode()
        request = urllib.request.Request(f"{self.api}/{path}", data, {"Content-Type": "application/json"})
        pauses = [8, 4, 2, 1]
        while True:
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return json.loads(answer.read() or "null")
            except urllib.error.HTTPError as error:
                if error.code != 503 or not pauses:
                    raise
                time.sleep(pauses.pop())

    def start(self, deployment: str, **parameters: object) -> str:
        """Id of a new flow run."""
        found = self.ask(f"deployments/name/{deployment}")
        run = self.ask(f"deployments/{found['id']}/create_flow_run", {"parameters": parameters})
        return str(run["id"])

    def cancel(self, flow_run: str) -> None:
        """As the button on its page does."""
        self.ask(f"flow_runs/{flow_run}/set_state", {"state": {"type": "CANCELLING"}})

    def state(self, flow_run: str) -> dict[str, str]:
        """Its latest state."""
        found: dict[str, str] = self.ask(f"flow_runs/{flow_run}")["state"]
        return found

    def end(self, flow_run: str) -> tuple[str, str]:
        """Type and message of its last state."""
        final = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        wait_until(lambda: self.state(flow_run)["type"] in final, "the flow run to end")
        state = self.state(flow_run)
        return state["type"], state["message"]


@pytest.fixture(scope="module")
def deployed(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """Every deployment of prefect.yaml."""
    folder = tmp_path_factory.mktemp("prefect")
    environment = os.environ | {
        "PREFECT_HOME": str(folder / "home"),
        "PREFECT_API_URL": prefect_server,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_CLI_COLORS": "false",
        "PYTHONPATH": str(REPOSITORY),
    }
    project = folder / "project"  # deploying leaves files behind
    project.mkdir()
    for name in ("flows", "tasks"):
        shutil.copytree(REPOSITORY / name, project / name)
    shutil.copy(REPOSITORY / "prefect.yaml", project)
    pool = WorkPoolCreate(
        name="rtprune", type="process", base_job_template=ProcessWorker.get_default_base_job_template()
    )
    with get_client(sync_client=True) as client:
        client.create_work_pool(pool)
    done = subprocess.run(
        [*PREFECT, "--no-prompt", "deploy", "--all"], env=environment, cwd=project, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with running(["worker", "start", "--pool", "rtprune"], environment, folder / "worker.log"):
        yield Deployed(prefect_server)


@pytest.mark.slow
def test_deployed_flows_are_run_by_a_worker(deployed: Deployed, tmp_path: Path, random_checkpoint: Path) -> None:
    source, out = write_corpus(tmp_path / "source", documents=2, pages=2), str(tmp_path / "out")
    settings = quick_settings(random_checkpoint, workers=1).model_dump(exclude_unset=True, exclude={"batch_pages"})
    ended, message = deployed.end(deployed.start("ocr-corpus/manual", source=str(source), output=out, **settings))
    assert ended == "COMPLETED", message
    ended, message = deployed.end(deployed.start("compact-dataset/compaction", output=out))
    assert ended == "COMPLETED", message
    assert sum(assert_complete(out).values()) == 4
    assert len(list((tmp_path / "out" / "pages").rglob("*.parquet"))) == 1


@pytest.mark.slow
def test_cancelled_flow_run_finishes_the_units_at_work_and_says_how_to_go_on(
    deployed: Deployed, tmp_path: Path
) -> None:
    pages = 600
    source, out = write_corpus(tmp_path / "source", documents=1, pages=pages), tmp_path / "out"
    given = {"source": str(source), "output": str(out), "model": "none", "unit_pages": 1, "workers": 1}
    flow_run = deployed.start("ocr-corpus/manual", **given)
    wait_until(lambda: len(list(out.glob("pages/??/*.parquet"))) >= 3, "the first units")
    deployed.cancel(flow_run)
    ended, message = deployed.end(flow_run)
    assert ended == "CANCELLED"
    assert "run the deployment again for the rest" in message
    dataset = Output.existing(str(out))
    units = len(done_units(dataset))
    assert 3 <= units < pages
    assert f"stopped after {units} units" in message
    assert verify_dataset(dataset).sound
    (row,) = pq.read_table(out / "runs").to_pylist()
    assert (row["status"], row["units"]) == ("stopped", units)
