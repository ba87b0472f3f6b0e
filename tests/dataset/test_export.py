"""Each document becomes one file that says all there is of it, and lies where it should."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtprune.cli import main
from rtprune.dataset import Output, commit_unit
from rtprune.dataset.export import Exported, Format, export_dataset, file_name
from rtprune.errors import Reason, UsageError
from tests.dataset.samples import document, plan, rows_of


@pytest.fixture
def output(tmp_path: Path) -> Output:
    """Document a: page 1 read, 2 failed, 3 read, 4 not read yet. Document b: one page."""
    made = Output.open(str(tmp_path / "out"), {"mode": "tiny"})
    units = plan(made, [document("a", 4), document("b", 1)], unit_pages=3, run_id="r1")
    for unit in units:
        if unit.slices[0].first_page == 1:
            rows = rows_of(unit)
            if len(rows) == 3:
                rows[1] = replace(rows[1], status="failed", text=None, reason=Reason.DAMAGED, message="torn")
            commit_unit(made, unit, rows, "r1")
    return made


def texts(folder: Path) -> dict[str, str]:
    return {file.name[0]: file.read_text() for file in folder.iterdir()}


def test_pages_come_in_order_and_what_lacks_is_marked(output: Output, tmp_path: Path) -> None:
    done = export_dataset(output, tmp_path / "files")
    found = texts(tmp_path / "files")
    assert found["a"] == (
        "<!-- page 1 -->\n\ntext 1\n\n"
        "<!-- page 2 -->\n\n<!-- page 2 failed: damaged -->\n\n"
        "<!-- page 3 -->\n\ntext 3\n\n"
        "<!-- page 4 -->\n\n<!-- page 4 not read yet -->\n"
    )
    assert done.lacking == 2


@pytest.mark.parametrize(
    ("format", "mark", "expected"),
    [
        ("text", None, "text 1\n\f\n[page 2 failed: damaged]\n\f\ntext 3\n\f\n[page 4 not read yet]\n"),
        ("markdown", "", "text 1\n\n<!-- page 2 failed: damaged -->\n\ntext 3\n\n<!-- page 4 not read yet -->\n"),
    ],
)
def test_formats_and_marks(output: Output, tmp_path: Path, format: Format, mark: str | None, expected: str) -> None:
    export_dataset(output, tmp_path / "files", format, mark)
    assert texts(tmp_path / "files")["a"] == expected


def test_json_lines_have_a_line_a_page(output: Output, tmp_path: Path) -> None:
    export_dataset(output, tmp_path / "files", "jsonl")
    lines = [json.loads(line) for line in texts(tmp_path / "files")["a"].splitlines()]
    assert [(line["page"], line["status"], line["text"]) for line in lines] == [
        (1, "ok", "text 1"),
        (2, "failed", None),
        (3, "ok", "text 3"),
        (4, "not read yet", None),
    ]
    assert lines[1]["reason"] == "damaged"


def test_again_it_writes_what_has_changed_and_nothing_else(output: Output, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    first = export_dataset(output, folder)
    again = export_dataset(output, folder)
    assert (first.unchanged, again) == (0, Exported(0, first.written, first.lacking))
    torn = next(folder.glob("a*"))
    torn.write_text("half")
    assert export_dataset(output, folder) == Exported(1, first.written - 1, first.lacking)
    assert not list(folder.glob(".*"))


@given(
    uri=st.text() | st.text(min_size=300, max_size=400), doc_id=st.text("0123456789abcdef", min_size=64, max_size=64)
)
def test_no_name_leaves_the_folder(uri: str, doc_id: str) -> None:
    name = file_name(f"s3://in/{uri}", doc_id, "markdown")
    assert Path("/x", name).resolve().parent == Path("/x").resolve()
    assert name.endswith(f"-{doc_id[:16]}.md")
    assert not name.startswith(".")
    assert all(letter.isprintable() for letter in name)
    assert len(name.encode()) <= 255


def test_a_folder_that_cannot_be_is_a_usage_error(output: Output, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write to"):
        export_dataset(output, tmp_path / "file")


def test_the_command_says_what_it_did(output: Output, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", output.uri, str(tmp_path / "files"), "--format", "text"]) == 0
    printed = capsys.readouterr().out
    assert "written, 0 unchanged" in printed
    assert "2 pages that failed or were not read yet" in printed
