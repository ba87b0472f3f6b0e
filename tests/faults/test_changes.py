"""Objects that change or vanish while a run is at work: its rows say so, and the next run reads what is there then."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from rtprune.dataset import Output, read_documents, read_pages
from rtprune.store import delete, get, join, put
from tests.faults.conftest import Cluster
from tests.faults.corruption import pdf
from tests.faults.driver import Ended
from tests.faults.proof import assert_whole

pytestmark = pytest.mark.slow

in_a_folder = pytest.mark.parametrize("place", ["folder"], indirect=True)
in_both = pytest.mark.parametrize("place", ["folder", "store"], indirect=True)


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where source and dataset lie: a folder, or a bucket."""
    return str(tmp_path) if request.param == "folder" else str(request.getfixturevalue("bucket"))


def fill(place: str, **pages: int) -> None:
    """A document of so many pages for each name."""
    for name, count in pages.items():
        put(join(place, "in", f"{name}.pdf"), pdf(name, count))


def change_before(step: str) -> None:
    """In the driver: before ``step`` of the run, what ``CHANGES`` says of objects: which file they become, or none."""
    from rtprune.corpus import run as driver

    inner: Callable[..., Any] = getattr(driver, step)

    def changed(*given: Any, **options: Any) -> Any:
        for uri, path in json.loads(os.environ["CHANGES"]).items():
            if path is None:
                delete(uri)
            else:
                put(uri, Path(path).read_bytes())
        return inner(*given, **options)

    setattr(driver, step, changed)


def change_before_planning() -> None:
    """In the driver: between listing and planning."""
    change_before("plan")


def change_before_reading() -> None:
    """In the driver: between planning and reading."""
    change_before("read")


def stop_while_reading() -> None:
    """In the driver: Ctrl-C once the first units are read."""
    from rtprune.corpus import run as driver

    inner = driver.read

    def stopped(run: Any, discovered: Any, on_progress: Any, should_stop: Any) -> Any:
        def tell(progress: Any) -> None:
            if progress.done >= 2:
                raise KeyboardInterrupt

        return inner(run, discovered, tell, should_stop)

    driver.read = stopped


@pytest.fixture
def changes(place: str, tmp_path: Path) -> Callable[..., str]:
    """``changes(name=data, other=None)``: what ``CHANGES`` is to say of the objects of these names."""

    def told(**contents: bytes | None) -> str:
        said: dict[str, str | None] = {}
        for name, data in contents.items():
            file = tmp_path / "changed" / name
            if data is not None:
                file.parent.mkdir(exist_ok=True)
                file.write_bytes(data)
            said[join(place, "in", f"{name}.pdf")] = None if data is None else str(file)
        return json.dumps(said)

    return told


def run(cluster: Cluster, place: str, before: Callable[[], object] | None = None, **more: str) -> Ended:
    flags = ("--workers", "1", "--batch-pages", "1")  # few units at a time
    return cluster.run(join(place, "in"), join(place, "out"), *flags, before=before, **more)


def rows(place: str) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Counter[tuple[str, str | None]]]]:
    """By name of the object: its ``documents`` rows, oldest first, and how often its pages have which (status, reason);
    after proof that each page of each document that opened is there once."""
    output = join(place, "out")
    assert_whole(output)
    documents: dict[str, list[dict[str, Any]]] = {}
    for row in read_documents(Output.existing(output)).to_pylist():
        documents.setdefault(Path(row["uri"]).stem, []).append(row)
    pages: dict[str, Counter[tuple[str, str | None]]] = {}
    for row in read_pages(Output.existing(output)).to_pylist():
        assert bool(row["message"]) == (row["status"] == "failed")
        pages.setdefault(Path(row["uri"]).stem, Counter())[row["status"], row["reason"]] += 1
    return documents, pages


def statuses(documents: Mapping[str, list[dict[str, Any]]]) -> dict[str, list[str]]:
    return {name: [row["status"] for row in of_it] for name, of_it in documents.items()}


def assert_next_run_rests(cluster: Cluster, place: str) -> None:
    ended = run(cluster, place)
    assert ended.said.startswith("nothing to do"), ended.said + ended.complained


@in_both
def test_what_changes_between_plan_and_reading_is_failed_by_this_run_and_read_by_the_next(
    cluster: Cluster, place: str, changes: Callable[..., str]
) -> None:
    fill(place, stays=2, longer=2, gone=2, same=2, spoilt=2)
    stays = get(join(place, "in", "stays.pdf"))
    told = changes(longer=pdf("changed", 3), gone=None, same=stays, spoilt=b"no document")
    ended = run(cluster, place, change_before_reading, CHANGES=told)
    assert ended.code == 0, ended.complained
    assert "Traceback" not in ended.complained
    documents, pages = rows(place)
    assert statuses(documents) == {name: ["ok"] for name in ("stays", "longer", "gone", "same", "spoilt")}
    was = {
        "stays": {("skipped", None): 2},
        "gone": {("failed", "unreadable"): 2},
        **{name: {("failed", "changed"): 2} for name in ("longer", "same", "spoilt")},
    }
    assert pages == was

    again = run(cluster, place)
    assert again.code == 0, again.complained
    documents, pages = rows(place)
    assert statuses(documents) == {
        "stays": ["ok"],
        "gone": ["ok"],
        "longer": ["ok", "ok"],
        "same": ["ok", "duplicate"],
        "spoilt": ["ok", "failed"],
    }
    assert len({row["version"] for row in documents["longer"]}) == 2
    assert documents["same"][1]["doc_id"] == documents["stays"][0]["doc_id"]
    assert documents["spoilt"][1]["reason"] == "not-a-document"
    assert pages == was | {"longer": {("failed", "changed"): 2, ("skipped", None): 3}}, "as said, and the new version"
    assert_next_run_rests(cluster, place)


@in_a_folder
def test_what_changes_between_listing_and_planning_is_read_as_it_is_and_not_twice(
    cluster: Cluster, place: str, changes: Callable[..., str]
) -> None:
    fill(place, stays=1, longer=2, gone=2)
    told = changes(longer=pdf("changed", 3), gone=None)
    ended = run(cluster, place, change_before_planning, CHANGES=told)
    assert ended.code == 0, ended.complained
    documents, pages = rows(place)
    assert statuses(documents) == {"stays": ["ok"], "longer": ["ok"], "gone": ["failed"]}
    assert documents["gone"][0]["reason"] == "unreadable"
    read = {"stays": {("skipped", None): 1}, "longer": {("skipped", None): 3}}
    assert pages == read

    again = run(cluster, place)
    assert again.code == 0, again.complained
    documents, pages = rows(place)
    assert statuses(documents) == {"stays": ["ok"], "longer": ["ok", "duplicate"], "gone": ["failed"]}
    assert pages == read, "the same bytes under a newer version"
    assert_next_run_rests(cluster, place)


@in_a_folder
def test_a_document_that_changes_while_a_run_is_stopped_keeps_what_was_read_of_it(cluster: Cluster, place: str) -> None:
    fill(place, book=20)
    stopped = run(cluster, place, stop_while_reading)
    assert stopped.code == 128 + 2, stopped.complained
    put(join(place, "in", "book.pdf"), pdf("second edition", 4))
    again = run(cluster, place)
    assert again.code == 0, again.complained
    documents, pages = rows(place)
    assert statuses(documents) == {"book": ["ok", "ok"]}
    counts = pages["book"]
    assert counts.keys() == {("skipped", None), ("failed", "changed")}
    assert counts["failed", "changed"] < 20, "what was read before it changed stays"
    assert counts.total() == 20 + 4
    by_page = {
        (row["doc_id"], row["page"]): row["status"]
        for row in read_pages(Output.existing(join(place, "out"))).to_pylist()
    }
    new = documents["book"][1]["doc_id"]
    assert [by_page[new, page] for page in range(1, 5)] == ["skipped"] * 4
    assert_next_run_rests(cluster, place)
