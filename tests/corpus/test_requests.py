"""What a run asks of its store: so many requests a run, a document and a unit, and no more."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rtprune.corpus.run import run_corpus
from rtprune.settings import RunSettings
from rtprune.store import join, put
from tests.sources import write_pdf

pytestmark = pytest.mark.usefixtures("local_ray")

REQUEST = re.compile(r'"(?:\x1b\[[\d;]*m)*(?P<method>[A-Z]+) /[\w-]+(?P<rest>[^ ]*) HTTP')

#: Requests of a run that finds one plan's worth of new objects: by what they are about, per run, document and unit.
#: docs/architecture.md has the same table.
TABLE = {
    "source": (5, 2, 0),  # reachable, an object or a prefix, listed; looked into, read
    "probe": (10, 0, 0),  # whether OUTPUT's store does what a dataset rests on
    "config": (3, 0, 0),
    "plans": (3, 0, 0),  # listed, asked for the next, written
    "documents": (2, 0, 0),  # written, listed
    "units": (3, 0, 2),  # listed when discovered, when read, when published; asked for, written
    "compactions": (3, 0, 0),  # listed with the units
    "runs": (2, 0, 0),  # running, finished
}


def kind(method: str, rest: str) -> str:
    for name, mark in (
        ("probe", "probe-"),
        ("config", "config.json"),
        ("plans", "/plans"),
        ("documents", "out/documents"),
        ("units", "out/pages"),
        ("compactions", "/compactions"),
        ("runs", "out/runs"),
    ):
        if mark in rest:
            return name
    return "source"


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """How often the store was asked for what, by its own log."""
    counts: Counter[str] = Counter()

    class Count(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if match := REQUEST.search(record.getMessage()):
                counts[kind(match["method"], match["rest"])] += 1

    log, handler = logging.getLogger("werkzeug"), Count()
    before = log.level
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    try:
        yield counts
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


def requests(bucket: str, folder: Path, documents: int, pages: int) -> tuple[Counter[str], Counter[str]]:
    """Requests of a run over so many documents, two pages a unit, and of the same run again."""
    home = join(bucket, f"{documents}-{pages}")
    for number in range(documents):
        path = write_pdf(folder / f"{documents}-{pages}-{number}.pdf", pages, f"{documents} {pages} {number}")
        put(join(home, "in", path.name), path.read_bytes())
    settings = RunSettings(model="none", unit_pages=2, workers=1)
    found = []
    for _ in range(2):
        with counted() as counts:
            run_corpus(join(home, "in"), join(home, "out"), settings)
        found.append(counts)
    return found[0], found[1]


def test_a_run_asks_its_store_no_more_than_it_says(bucket: str, tmp_path: Path) -> None:
    base, again = requests(bucket, tmp_path, documents=3, pages=2)
    more_documents, _ = requests(bucket, tmp_path, documents=8, pages=2)
    more_units, _ = requests(bucket, tmp_path, documents=3, pages=6)
    table = {}
    for name in base | more_documents | more_units:
        unit, rest = divmod(more_units[name] - base[name], 6)
        assert rest == 0, name
        document, rest = divmod(more_documents[name] - base[name], 5)
        assert rest == 0, name
        document -= unit
        table[name] = (base[name] - 3 * document - 3 * unit, document, unit)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    assert table == TABLE
    assert again.total() <= 23, f"a run that has nothing to do asks for {dict(again)}"
