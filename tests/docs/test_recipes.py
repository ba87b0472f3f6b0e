"""Every query and every piece of Python on the page about the dataset's format gives something."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from rtprune.dataset import Output, commit_unit, read_pages
from tests.dataset.samples import CONFIG, document, plan, publish_documents, rows_of
from tests.docs.pages import REPOSITORY, blocks
from tests.docs.small_dataset import fill

PAGE = REPOSITORY / "docs" / "dataset-format.md"
QUERIES = [*blocks(PAGE, "sql"), *blocks(REPOSITORY / "README.md", "sql")]
RECIPES = [block for block in blocks(PAGE, "python") if "s3://" not in block]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the dataset OUTPUT."""
    place = tmp_path_factory.mktemp("recipes")
    fill(str(place / "OUTPUT"))
    return place


@pytest.mark.parametrize("query", QUERIES)
def test_queries_give_rows(query: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert duckdb.sql(query).fetchall()


def test_a_copy_has_the_pages_of_its_original(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (query,) = [each for each in QUERIES if "JOIN" in each]
    pages = [uri for uri, _, _ in duckdb.sql(query).fetchall()]
    assert sorted(pages) == ["s3://in/a.pdf"] * 3 + ["s3://in/b.pdf"] * 2 + ["s3://in/copy.pdf"] * 3


def test_the_recipe_for_current_pages_leaves_out_earlier_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = Output.open(str(tmp_path / "OUTPUT"), CONFIG)
    read = [document("a", 3), document("b", 2)], [document("b", 4, version="2", content="new")], [document("a", 1)]
    for documents in read:
        for unit in plan(output, documents, unit_pages=2, run_id="r1"):
            commit_unit(output, unit, rows_of(unit), "r1")
    publish_documents(output)
    monkeypatch.chdir(tmp_path)
    (recipe,) = [each for each in QUERIES if "current_documents" in each]
    found = sorted((uri, page) for uri, page, _ in duckdb.sql(recipe).fetchall())
    assert found == [
        (f"s3://in/{name}.pdf", page) for name, count in (("a", 3), ("b", 4)) for page in range(1, count + 1)
    ]
    current = read_pages(output, current=True)
    assert sorted(zip(*(current.column(name).to_pylist() for name in ("uri", "page")), strict=True)) == found


@pytest.mark.parametrize("recipe", RECIPES)
def test_python_recipes_run(recipe: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "polars" in recipe:
        pytest.importorskip("polars")
    monkeypatch.chdir(folder)
    exec(recipe, {})


def test_the_recipe_for_checksums_notices_a_flipped_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(str(tmp_path / "OUTPUT"))
    monkeypatch.chdir(tmp_path)
    (recipe,) = [each for each in RECIPES if "hashlib" in each]
    file = next(Path("OUTPUT/pages").rglob("*.parquet"))
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)
    with pytest.raises(AssertionError):
        exec(recipe, {})


def test_duckdb_reads_from_a_store(bucket: str) -> None:
    fill(f"{bucket}/text")
    (recipe,) = [block for block in blocks(PAGE, "python") if "s3://" in block]
    code = recipe.replace("s3://bucket/", f"{bucket}/")
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "failed" in ended.stdout, ended.stderr
