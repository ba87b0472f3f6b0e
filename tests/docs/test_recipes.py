"""Every query and every piece of Python on the page about the dataset's format gives something."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from rtprune.dataset import DocumentRow, Output, RunRow, commit_unit, record_run
from rtprune.errors import Reason
from tests.dataset.samples import CONFIG, document, plan, publish_documents, rows_of
from tests.docs.pages import REPOSITORY, blocks

PAGE = REPOSITORY / "docs" / "dataset-format.md"
REFUSED = DocumentRow("s3://in/c.pdf", "1", 9, "failed", reason=Reason.DAMAGED, message="c.pdf is damaged")


def fill(uri: str) -> None:
    """A dataset of two documents, one of them twice in the source, a failed page, and a run that was killed."""
    from datetime import UTC, datetime, timedelta

    output = Output.open(uri, CONFIG)
    documents = [document("a", 3), document("b", 2), document("copy", 3, content="a"), REFUSED]
    for unit in plan(output, documents, unit_pages=2, run_id="r1"):
        first, *others = rows_of(unit)
        failed = replace(first, status="failed", text=None, reason=Reason.TIMEOUT, message="it took too long")
        commit_unit(output, unit, [failed, *others], "r1")
    publish_documents(output)
    began = datetime.now(UTC) - timedelta(hours=1)
    record_run(output, RunRow("r1", began, began, None, "running", "s3://in", {}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the dataset OUTPUT."""
    place = tmp_path_factory.mktemp("recipes")
    fill(str(place / "OUTPUT"))
    return place


@pytest.mark.parametrize("query", blocks(PAGE, "sql"))
def test_queries_give_rows(query: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert duckdb.sql(query).fetchall()


def test_a_copy_has_the_pages_of_its_original(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (query,) = [each for each in blocks(PAGE, "sql") if "JOIN" in each]
    pages = [uri for uri, _, _ in duckdb.sql(query).fetchall()]
    assert sorted(pages) == ["s3://in/a.pdf"] * 3 + ["s3://in/b.pdf"] * 2 + ["s3://in/copy.pdf"] * 3


def local_recipes() -> Iterator[str]:
    return (block for block in blocks(PAGE, "python") if "s3://" not in block)


@pytest.mark.parametrize("recipe", local_recipes())
def test_python_recipes_run(recipe: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "polars" in recipe:
        pytest.importorskip("polars")
    monkeypatch.chdir(folder)
    exec(recipe, {})


def test_duckdb_reads_from_a_store(bucket: str) -> None:
    fill(f"{bucket}/text")
    (recipe,) = [block for block in blocks(PAGE, "python") if "s3://" in block]
    code = recipe.replace("s3://bucket/", f"{bucket}/")
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "failed" in ended.stdout, ended.stderr
