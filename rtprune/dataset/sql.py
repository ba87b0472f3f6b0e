"""A dataset as tables of DuckDB, for questions in SQL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import duckdb

from rtprune.dataset.documents import current_documents
from rtprune.dataset.files import current_files
from rtprune.dataset.layout import Output
from rtprune.dataset.read import read_documents
from rtprune.dataset.schema import PAGES, RUNS
from rtprune.errors import RTPruneError, UsageError
from rtprune.scratch import scratch
from rtprune.store import find, is_remote, join, open_filesystem

TABLES = ("pages", "documents", "current_pages", "current_documents", "runs", "failures", "savings")
_MEMORY = "1GB"
_FETCHED = 1000  # rows at a time
_VIEWS = """
CREATE VIEW current_pages AS SELECT * FROM pages WHERE doc_id IN (SELECT doc_id FROM current_documents);
CREATE VIEW failures AS
    SELECT uri, NULL::INTEGER AS page, reason, message FROM documents WHERE status = 'failed'
    UNION ALL SELECT uri, page, reason, message FROM pages WHERE status = 'failed';
CREATE VIEW savings AS
    SELECT doc_id, any_value(uri) AS uri, count(*) AS pages, sum(visual_tokens_before) AS visual_tokens_before,
           sum(visual_tokens_after) AS visual_tokens_after,
           1 - sum(visual_tokens_after) / nullif(sum(visual_tokens_before), 0) AS saved_share
    FROM pages GROUP BY doc_id;
"""


@contextmanager
def connected(output: Output) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to a database that has `TABLES`; it spills to disk what does not fit into a gigabyte.

    ``pages`` are the files that make up the dataset now, each page once; they are read when a query asks for them. A
    compaction that ends meanwhile may delete some: ask again. ``current_documents`` and ``current_pages`` leave out
    earlier versions of objects that have changed. ``failures`` are documents, whose ``page`` is null, and pages;
    ``savings`` has a row for each document.

    Raises:
        StoreError: the store failed.
        RTPruneError: a file of the dataset is damaged.
    """
    files = {
        "pages": [join(output.uri, file.file) for file in current_files(output).files],
        "runs": find(join(output.uri, "runs"), ".parquet"),
    }
    documents = read_documents(output)
    with scratch() as folder, duckdb.connect(config={"temp_directory": folder, "memory_limit": _MEMORY}) as database:
        if is_remote(output.uri):
            database.register_filesystem(open_filesystem(output.uri)[0])
        for name, schema in (("pages", PAGES), ("runs", RUNS)):
            if files[name]:
                database.read_parquet(files[name]).create_view(name)
            else:
                database.register(name, schema.empty_table())
        database.register("documents", documents)
        database.register("current_documents", current_documents(documents))
        database.execute(_VIEWS)
        yield database


@dataclass(frozen=True)
class Answer:
    """What a query gives: the names of its columns, and its rows as they are fetched."""

    columns: Sequence[str]
    rows: Iterator[tuple[Any, ...]]


@contextmanager
def query(output: Output, statement: str) -> Iterator[Answer]:
    """The rows that one SQL ``statement`` gives, to be fetched within the block; see ``connected``.

    Raises:
        UsageError: DuckDB refuses the statement, at once or while rows are fetched.
        RTPruneError: a file cannot be read, of the dataset or one that the statement names.
    """
    with _refusals(), connected(output) as database:
        database.execute(statement)
        yield Answer([column[0] for column in database.description or ()], _fetched(database))


def _fetched(database: duckdb.DuckDBPyConnection) -> Iterator[tuple[Any, ...]]:
    while rows := database.fetchmany(_FETCHED):
        yield from rows


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except (duckdb.IOException, duckdb.SerializationException) as error:
        raise _unreadable(error) from error
    except duckdb.Error as error:
        if ".parquet" in str(error) and isinstance(error, duckdb.InvalidInputException):
            raise _unreadable(error) from error
        raise UsageError(f"DuckDB refuses this query: {error}", "there are " + ", ".join(TABLES)) from error


def _unreadable(error: duckdb.Error) -> RTPruneError:
    return RTPruneError(f"a file cannot be read: {error}", "rtprune verify tells which files of a dataset are damaged")
