"""The dashboard asks for what is exported, and Prometheus for what exports it."""

from __future__ import annotations

import re
from typing import Any

from rtprune.corpus.metrics import SERIES, Series
from tests.corpus.test_metrics import promised
from tests.infra.described import documents, services, words
from tests.infra.test_compose import ray_nodes

RAYS_LABELS = {"NodeAddress", "WorkerId", "le", "ip", "GpuIndex"}


def exported(series: Series) -> set[str]:
    return {f"ray_{name}" for name in promised(series)}


def queries() -> list[str]:
    (dashboard,) = documents("grafana/rtprune.json")
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def test_dashboard_asks_only_for_what_is_exported_and_for_all_of_it() -> None:
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

    asked = {name for query in queries() for name in re.findall(r"\bray_\w+", query)}
    ours = {name: series.name for series in SERIES for name in exported(series)}
    rays = {f"ray_{name}" for name in METRICS_GAUGES}
    assert asked <= ours.keys() | rays
    assert {ours[name] for name in asked if name in ours} == {series.name for series in SERIES}


def test_dashboard_groups_by_tags_that_its_series_have() -> None:
    (dashboard,) = documents("grafana/rtprune.json")
    tags = {name: set(series.tags) | RAYS_LABELS for series in SERIES for name in exported(series)}
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            names = set(re.findall(r"\bray_\w+", target["expr"]))
            grouped = {tag.strip() for by in re.findall(r"by \(([^)]*)\)", target["expr"]) for tag in by.split(",")}
            shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            for name in names & tags.keys():
                assert grouped <= tags[name], f"{panel['title']}: {name} has no such tag"
                assert shown <= grouped, f"{panel['title']}: the legend shows what the query drops"


def test_dashboard_is_well_formed() -> None:
    (dashboard,) = documents("grafana/rtprune.json")
    panels: list[dict[str, Any]] = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells), "panels lie on top of each other"
    assert max(x for x, _ in cells) < 24
    for query in queries():
        assert query.count("(") == query.count(")")
    (variable,) = dashboard["templating"]["list"]
    assert {panel["datasource"]["uid"] for panel in panels} == {f"${{{variable['name']}}}"}


def test_prometheus_asks_every_ray_node_on_the_port_it_exports_to() -> None:
    (prometheus,) = documents("prometheus.yaml")
    (job,) = prometheus["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    assert set(found["names"]) == ray_nodes()
    for name in found["names"]:
        assert f"--metrics-export-port={found['port']}" in words(services()[name])


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    (sources,) = documents("grafana/datasources.yaml")
    (source,) = sources["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in services()
    (providers,) = documents("grafana/dashboards.yaml")
    folder = providers["providers"][0]["options"]["path"]
    mounts = dict(volume.split(":")[:2] for volume in services()["grafana"]["volumes"])
    assert mounts["./grafana/rtprune.json"].startswith(f"{folder}/")
    assert mounts["./grafana/datasources.yaml"].startswith("/etc/grafana/provisioning/datasources/")
    assert mounts["./grafana/dashboards.yaml"].startswith("/etc/grafana/provisioning/dashboards/")
    assert mounts.keys() >= {"./grafana/rtprune.json"}
