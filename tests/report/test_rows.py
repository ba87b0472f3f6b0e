"""Rows are written so that people, spreadsheets and programs each get what they can read."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rtprune.cli import main
from rtprune.dataset import Output
from rtprune.report.rows import csv_lines, json_lines, print_table
from tests.dataset.samples import CONFIG, document, plan

COLUMNS = ("uri", "said", "at")
ROWS = [("s3://in/a,b.pdf", 'he said "no"\nand left', datetime(2026, 1, 2, tzinfo=UTC)), ("x", None, None)]


def test_csv_can_be_read_back() -> None:
    text = "".join(csv_lines(COLUMNS, ROWS))
    assert list(csv.reader(io.StringIO(text, newline=""))) == [
        list(COLUMNS),
        ["s3://in/a,b.pdf", 'he said "no"\nand left', "2026-01-02 00:00:00+00:00"],
        ["x", "", ""],
    ]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_json_can_be_read_back(count: int) -> None:
    found = json.loads("".join(json_lines(COLUMNS, ROWS[:count])))
    assert [row["uri"] for row in found] == [row[0] for row in ROWS[:count]]


def test_a_table_lets_no_name_speak_to_the_terminal() -> None:
    stream = io.StringIO()
    print_table(("uri", "n"), [("\x1b[2J[bold]x", 1)], stream)
    shown = stream.getvalue()
    assert "\x1b[2J" not in shown
    assert "[bold]x" in shown


def test_the_command_asks_a_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = Output.open(str(tmp_path / "out"), CONFIG)
    plan(output, [document("a", 2)], unit_pages=3, run_id="r1")
    ask = ["sql", output.uri, "SELECT uri, pages FROM documents"]
    assert main(ask) == 0
    assert capsys.readouterr().out.splitlines() == ["uri,pages", "s3://in/a.pdf,2"]
    assert main([*ask, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"uri": "s3://in/a.pdf", "pages": 2}]
    assert main(["sql", output.uri, "SELECT nothing"]) == 2
    assert "DuckDB refuses this query" in capsys.readouterr().err
