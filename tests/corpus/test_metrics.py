"""What a run tells Prometheus: the right numbers under the promised names, and nothing that could break or leak."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from typing import Any

import pytest

from rtprune.corpus.metrics import SERIES, DriverMetrics, PageMetrics, Series
from rtprune.dataset import PageRow
from rtprune.errors import Reason
from tests.processes import wait_until

SECRET = "s3://bucket/secret.pdf?password=hunter2"
SAMPLE = re.compile(r"^ray_(?P<name>rtprune_\w+)\{(?P<tags>.*)\} (?P<value>\S+)$", re.MULTILINE)
RAYS_OWN = {"Component", "NodeAddress", "SessionName", "Version", "WorkerId"}

READ = PageRow(
    doc_id=SECRET,
    uri=SECRET,
    page=1,
    status="ok",
    model="metrics-test",
    text=SECRET,
    visual_tokens_before=100,
    visual_tokens_after=60,
    output_tokens=40,
    encode_ms=500.0,
    prune_ms=250.0,
    prefill_ms=250.0,
    decode_ms=1000.0,
)


def failed(reason: Reason | None) -> PageRow:
    return PageRow(
        doc_id=SECRET,
        uri=SECRET,
        page=2,
        status="failed",
        model="metrics-test",
        reason=reason,
        message=SECRET,
    )


class Teller:
    """An actor that records pages as the reader does."""

    def __init__(self) -> None:
        self._metrics = PageMetrics()

    def tell(self, rows: Sequence[PageRow]) -> str:
        import ray

        self._metrics.record(rows)
        worker: str = ray.get_runtime_context().get_worker_id()
        return worker


def exported() -> str:
    import ray

    (node,) = ray.nodes()
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics", timeout=10) as answer:
        text: str = answer.read().decode()
    return text


def samples(text: str, worker: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """What a process told: name without ``ray_`` -> its samples, with the tags that Ray did not add."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for match in SAMPLE.finditer(text):
        tags = dict(re.findall(r'(\w+)="([^"]*)"', match["tags"]))
        ours = {name: value for name, value in tags.items() if name not in RAYS_OWN and not name.startswith("otel_")}
        if tags["WorkerId"] == worker:
            found.setdefault(match["name"], []).append((ours, float(match["value"])))
    return found


def promised(series: Series) -> dict[str, set[tuple[str, ...]]]:
    """Names that a series is exported under -> the tags of its samples."""
    if series.kind == "histogram":
        bare = {f"{series.name}_{part}": {series.tags} for part in ("sum", "count")}
        return bare | {f"{series.name}_bucket": {(*series.tags, "le")}}
    return {series.name + ("_total" if series.kind == "counter" else ""): {series.tags}}


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_ray_exports_every_series_under_its_promised_name_with_the_right_sum() -> None:
    import ray

    teller = ray.remote(num_cpus=0)(Teller).remote()
    worker = ray.get(
        teller.tell.remote([READ, READ, failed(Reason.DAMAGED), failed(Reason.UNEXPECTED), failed(None)]), timeout=120
    )
    driver = DriverMetrics()
    driver.unit_committed()
    driver.worker_lost("timeout")
    driver.queue(waiting=7, in_flight=2)

    def told() -> dict[str, list[tuple[dict[str, str], float]]]:
        text = exported()
        # of pages the worker's, as this process may have driven runs that gave some up
        return samples(text, ray.get_runtime_context().get_worker_id()) | samples(text, worker)

    names = {name: tags for series in SERIES for name, tags in promised(series).items()}
    wait_until(lambda: names.keys() <= told().keys() and ({"state": "waiting"}, 7.0) in told()["rtprune_queue"], "them")
    found = told()
    for name, tags in names.items():
        assert {tuple(sorted(given)) for given, _ in found[name]} == {tuple(sorted(each)) for each in tags}

    def value(name: str, **tags: str) -> Any:
        return next(value for given, value in found[name] if given == tags)

    ours = {"model": READ.model}
    assert value("rtprune_pages_total", status="ok", **ours) == 2
    assert value("rtprune_pages_total", status="failed", **ours) == 3
    assert value("rtprune_page_failures_total", reason="damaged") == 1
    assert value("rtprune_page_failures_total", reason="unexpected") == 2
    assert value("rtprune_visual_tokens_before_total", **ours) == 200
    assert value("rtprune_visual_tokens_after_total", **ours) == 120
    assert value("rtprune_output_tokens_total", **ours) == 80
    assert value("rtprune_busy_seconds_total", **ours) == pytest.approx(4.0)
    assert value("rtprune_page_seconds_count", **ours) == 2
    assert value("rtprune_queue", state="in_flight") == 2
    assert value("rtprune_workers_lost_total", reason="timeout") >= 1  # this process may have driven other runs
    assert value("rtprune_units_committed_total") >= 1
    assert not [word for word in ("secret", "hunter2") if word in exported()]
    driver.queue(0, 0)


@pytest.mark.slow
def test_recording_without_ray_or_a_collector_does_nothing() -> None:
    code = (
        "from rtprune.corpus.metrics import DriverMetrics, PageMetrics\n"
        "from rtprune.corpus.ray_cluster import start_local\n"
        "from rtprune.dataset import PageRow\n"
        "def tell():\n"
        "    PageMetrics().record([PageRow('d', 'u', 1, 'ok', 'm', output_tokens=1, decode_ms=1.0)])\n"
        "    DriverMetrics().queue(1, 1)\n"
        "tell()\n"
        "start_local(cpus=1)\n"
        "tell()\n"
        "import ray\n"
        "ray.get(ray.remote(tell).remote())\n"
        "print('told')\n"
    )
    environment = os.environ | {"RAY_enable_metrics_collection": "0"}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert ended.stdout.splitlines()[-1:] == ["told"], ended.stderr


def test_importing_metrics_leaves_ray_alone() -> None:
    """Ray reads its switches when it is first imported, so that it must not come before the session sets them."""
    code = "import sys, rtprune.corpus.metrics; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
