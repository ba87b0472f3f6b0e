"""What failed is listed in lines that people and terminals can bear."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from rtprune.cli import main
from rtprune.dataset import DocumentRow, FailureRow, Output
from rtprune.errors import Reason
from rtprune.report.failures import failure_list, first_failures_named
from tests.dataset.samples import CONFIG, plan

FIELDS = {"uri": pa.string(), "page": pa.int32(), "reason": pa.string(), "message": pa.string(), "passing": pa.bool_()}


def table(*rows: tuple[str, int | None, str, str | None, bool]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(FIELDS, row, strict=True)) for row in rows], schema=pa.schema(FIELDS))


def test_each_failure_has_a_line_and_the_last_one_counts_them() -> None:
    listed = failure_list(
        table(
            ("s3://in/a.pdf", None, "unreachable", "no answer", True),
            ("s3://in/b.pdf", 7, "damaged", None, False),
        )
    )
    assert listed.splitlines() == [
        "s3://in/a.pdf [unreachable] (trying again may help) no answer",
        "s3://in/b.pdf, page 7 [damaged]",
        "1 document and 1 page failed; another try may help 1 of them",
    ]


def test_a_name_cannot_speak_to_the_terminal() -> None:
    listed = failure_list(table(("s3://in/\x1b[2J\nx.pdf", 1, "damaged", "bell \x07", False)))
    assert "\x1b" not in listed
    assert "\x07" not in listed
    assert len(listed.splitlines()) == 2


def test_a_summary_names_the_first_and_how_the_rest_is_listed() -> None:
    first = [FailureRow("s3://in/b.pdf", number, "timeout", "x" * 500, passing=True) for number in range(1, 11)]
    lines = first_failures_named(first, 1234, "out of here")
    assert len(lines) == 11
    assert lines[0].startswith("  s3://in/b.pdf, page 1 [timeout] (trying again may help) xxx")
    assert len(lines[0]) < 300
    assert lines[-1] == "  and 1,224 more: rtprune failures 'out of here'"
    assert len(first_failures_named(first, 10, "out")) == 10
    assert first_failures_named([], 0, "out") == []


def test_the_command_prints_lines_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = Output.open(str(tmp_path / "out"), CONFIG)
    locked = DocumentRow("s3://in/a.pdf", "1", 10, "failed", reason=Reason.ENCRYPTED, message="needs a password")
    plan(output, [locked], unit_pages=3, run_id="r1")
    assert main(["failures", output.uri]) == 0
    assert "s3://in/a.pdf [encrypted] needs a password" in capsys.readouterr().out
    assert main(["failures", output.uri, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["page"], row["reason"], row["passing"]) == (None, "encrypted", False)
    assert main(["failures", str(tmp_path / "nothing")]) == 2
