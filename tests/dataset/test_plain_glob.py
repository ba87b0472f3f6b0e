"""DuckDB reads the pages by a plain glob, all the while runs commit and are killed: each page once at every look."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import duckdb
import fsspec
import pytest

from rtprune.dataset import Output, plan_units
from tests.conftest import REPOSITORY
from tests.dataset.commit_loop import DOCUMENTS
from tests.dataset.samples import check_exactly_once

PAGES = {(row.doc_id, page) for row in DOCUMENTS for page in range(1, (row.pages or 0) + 1)}
KILLS = 3


def looks(output: Output, over: Event) -> Iterator[list[tuple[str, int, str]]]:
    """Document, page and file of every row, again and again, until a look that began when it was ``over``."""
    glob = f"{output.uri}/pages/**/*.parquet"
    with duckdb.connect() as database:
        if output.uri.startswith("s3://"):
            database.register_filesystem(fsspec.filesystem("s3", use_listings_cache=False))
        last = False
        while not last:
            last = over.is_set()
            try:
                rows = database.execute(f"SELECT doc_id, page, filename FROM read_parquet('{glob}', filename = true)")
                yield rows.fetchall()
            except duckdb.IOException as error:
                if "No files found" not in str(error):
                    raise
                yield []


def work(output: Output, moments: random.Random, over: Event) -> int:
    """Two runs at once, killed ``KILLS`` times and then left to end; returns how many kills met a run at work."""
    killed = 0
    try:
        for turn in range(KILLS + 1):
            processes = [start(output.uri, f"r{turn}{letter}") for letter in "ab"]
            if turn < KILLS:
                for _ in range(moments.randrange(1, 8)):
                    line(processes[0])
                time.sleep(moments.uniform(0.0, 0.02))
                for process in processes:
                    process.kill()
            killed += sum(process.wait(timeout=120) != 0 for process in processes)
            for process in processes:
                process.communicate()
    finally:
        over.set()
    return killed


def start(output_uri: str, run_id: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.dataset.commit_loop", output_uri, run_id],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    line(process)
    assert process.stdin is not None
    process.stdin.write(b"go\n")
    process.stdin.flush()
    return process


def line(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    process.stdout.readline()


def by_file(rows: list[tuple[str, int, str]]) -> dict[str, set[tuple[str, int]]]:
    """Document and page of the rows in each file, by its name."""
    files: dict[str, set[tuple[str, int]]] = {}
    for doc_id, page, file in rows:
        files.setdefault(file.rsplit("/", 1)[1], set()).add((doc_id, page))
    return files


@pytest.mark.slow
def test_a_plain_glob_sees_each_page_once_while_runs_write_and_are_killed(output: Output) -> None:
    over = Event()
    before: set[tuple[str, int]] = set()
    sizes: list[int] = []
    plans = (plan_units(documents, output.config_hash, 4) for documents in (DOCUMENTS[:25], DOCUMENTS[25:]))
    units = {f"{unit.unit_id}.parquet": set(unit.pages()) for plan in plans for unit in plan}
    with ThreadPoolExecutor(1) as threads:
        working = threads.submit(work, output, random.Random(11), over)
        for rows in looks(output, over):
            pages = {(doc_id, page) for doc_id, page, _ in rows}
            assert len(pages) == len(rows), "a page twice"
            assert before <= pages <= PAGES, "a page that was there is gone, or one that nobody planned is there"
            before = pages
            sizes.append(len(rows))
            assert all(units[file] == pages for file, pages in by_file(rows).items()), "a file before it was whole"
        assert working.result() > 0, "there was too little work to be killed at"
    assert before == PAGES
    assert len({size for size in sizes if 0 < size < len(PAGES)}) > 1, "there were too few looks while runs wrote"
    check_exactly_once(output, DOCUMENTS)
