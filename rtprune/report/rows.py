"""Rows of a query: a table on a terminal, CSV or JSON elsewhere."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from io import StringIO
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rtprune.report.wording import one_line


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], stream: TextIO) -> None:
    """As a table, a line or more for each row, with what does not print escaped."""
    table = Table()
    for name in columns:
        table.add_column(Text(one_line(name)))
    for row in rows:
        table.add_row(*(Text("" if value is None else one_line(str(value))) for value in row))
    Console(file=stream).print(table)


def csv_lines(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """As CSV with a header, row by row."""
    yield _csv(columns)
    for row in rows:
        yield _csv(row)


def json_lines(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """As a JSON list of objects, a line for each; times and other values that JSON lacks as text."""
    before = "[\n"
    for row in rows:
        yield before + json.dumps(dict(zip(columns, row, strict=True)), default=str)
        before = ",\n"
    yield "\n]" if before == ",\n" else "[]"


def _csv(row: Sequence[Any]) -> str:
    line = StringIO()
    csv.writer(line, lineterminator="\n").writerow(row)
    return line.getvalue()
